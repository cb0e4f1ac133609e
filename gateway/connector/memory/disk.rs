//! The embedded registry on disk: what was registered, not when it was last renewed, so that heartbeats cause no
//! write.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Registration, state::State};
use crate::files;

const VERSION: u32 = 1;

type Services = BTreeMap<String, BTreeMap<String, Registration>>;

/// What is saved.
#[derive(Default)]
pub(super) struct Saved(Services);

/// The file. The digest is of the services as they are written, without white space.
#[derive(Serialize, Deserialize)]
struct OnDisk {
    version: u32,
    sha256: String,
    services: Services,
}

impl Saved {
    pub fn into_registrations(self) -> impl Iterator<Item = (String, String, Registration)> {
        self.0.into_iter().flat_map(|(service, instances)| {
            instances.into_iter().map(move |(id, registration)| (service.clone(), id, registration))
        })
    }
}

impl From<&State> for Saved {
    fn from(state: &State) -> Self {
        let mut services = Services::new();
        for (service, id, registration) in state.registrations() {
            let instances = match services.get_mut(service) {
                Some(instances) => instances,
                None => services.entry(service.into()).or_default(),
            };
            instances.insert(id.into(), registration.clone());
        }
        Self(services)
    }
}

/// Writes so that whoever reads sees the old file or the new one, never a part.
pub(super) fn save(path: &Path, Saved(services): Saved) -> io::Result<()> {
    let on_disk = OnDisk { version: VERSION, sha256: digest(&services)?, services };
    let text = serde_json::to_string(&on_disk)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = path.with_extension("json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // The new name, too, must survive a power cut.
    File::open(folder)?.sync_all()
}

/// Reads what was saved. What cannot be used is put aside, and the registry starts empty.
pub(super) fn load(path: &Path) -> (Saved, Vec<String>) {
    let text = match files::read(path, files::STATE) {
        Ok(text) => text,
        Err(error) if error.is_missing() => return (Saved::default(), vec![]),
        Err(error) => return (Saved::default(), vec![format!("cannot read {}: {error}", path.display())]),
    };
    match parse(&text) {
        Ok(services) => (Saved(services), vec![]),
        Err(why) => (Saved::default(), vec![put_aside(path, &why)]),
    }
}

fn parse(text: &[u8]) -> Result<Services, String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("version {version} is not {VERSION}"));
    }
    let on_disk: OnDisk = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let digest = digest(&on_disk.services).map_err(|error| error.to_string())?;
    if digest != on_disk.sha256 {
        return Err("its checksum is wrong".into());
    }
    Ok(on_disk.services)
}

fn put_aside(path: &Path, why: &str) -> String {
    let aside = path.with_extension("json.unusable");
    match fs::rename(path, &aside) {
        Ok(()) => format!("{} is unusable: {why}; kept as {}", path.display(), aside.display()),
        Err(error) => format!("{} is unusable: {why}; cannot rename it: {error}", path.display()),
    }
}

fn digest(services: &Services) -> io::Result<String> {
    let digest = Sha256::digest(serde_json::to_vec(services)?);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}
