//! Whether the plugins that are used load and take their settings, and whether their files are the right ones.

use std::{io, path::Path};

use super::{
    super::{blocking, uses::uses},
    finding::Finding,
};
use crate::{
    config::Config,
    files::{self, ReadError},
    plugin::{self, Cause, Digest, Origin, PluginInfo, Plugins},
};

pub(super) async fn examine(config: &Config, plugins: &Plugins) -> Vec<Finding> {
    plugins.settled(uses(config, None)).await;
    let mut found: Vec<Finding> = Vec::new();
    for problem in plugins.check(uses(config, None)).await {
        let text = format!("{}: {}", problem.used_by, problem.text);
        let advice = match problem.cause {
            Cause::NoSelector | Cause::NoRegistry => {
                format!("put {}.wasm into {}", problem.plugin, config.plugins.directory.display())
            }
            Cause::Settings => "change `settings` there".to_owned(),
            Cause::Compiling | Cause::Refused => {
                format!("build {} again, and see docs/plugins.md", problem.plugin)
            }
        };
        found.push(Finding::error("plugin", text).advice(advice));
    }
    let known = plugins.list();
    let directory = config.plugins.directory.clone();
    let (of_files, shipped) = blocking(move || (of_files(&known, &directory), shipped(&known))).await;
    found.extend(of_files);
    found.extend(shipped);
    found
}

fn shipped(known: &[PluginInfo]) -> Option<Finding> {
    let used = |plugin: &&PluginInfo| plugin.version > 0 && plugin.origin == Some(Origin::Shipped);
    let names: Vec<&str> = known.iter().filter(used).map(|plugin| &*plugin.name).collect();
    (!names.is_empty())
        .then(|| Finding::ok("plugin", format!("loaded, of those inside: {}", names.join(", "))))
}

/// Every file in the folder, used or not: what is dropped there is what runs.
fn of_files(known: &[PluginInfo], directory: &Path) -> Vec<Finding> {
    match plugin::files(directory) {
        Ok(files) => files.iter().flat_map(|(name, path)| of_file(known, name, path)).collect(),
        Err(error) => {
            vec![unreadable(&format!("the folder {}: {error}", directory.display()), error.kind())]
        }
    }
}

fn of_file(known: &[PluginInfo], name: &str, path: &Path) -> Vec<Finding> {
    let shown = path.display();
    let digest = match files::read(path, files::STATE) {
        Ok(bytes) => Digest::of(&bytes).to_string(),
        Err(error) => {
            let text = format!("{shown}: {error}");
            return vec![unreadable(&text, io::Error::from(error).kind())];
        }
    };
    let place = format!("{shown}, sha256 {digest}");
    let mut found = Vec::new();
    match expected(path) {
        Ok(Some(expected)) if expected != digest => {
            let text = format!("{place}: {shown}.sha256 says {expected}");
            let advice =
                "it is not the file that was meant: copy it again, or both files from where they were built";
            return vec![Finding::error("plugin", text).advice(advice)];
        }
        Ok(_) => {}
        Err(error) => {
            found.push(unreadable(&format!("{shown}.sha256: {error}"), io::Error::from(error).kind()));
        }
    }
    let info = known.iter().find(|plugin| &*plugin.name == name);
    found.push(match info.map(|info| (info, &info.last_refusal)) {
        // A use that goes without it has said so above.
        Some((info, Some(refused))) if info.version == 0 || info.origin == Some(Origin::Shipped) => {
            Finding::error("plugin", format!("{place}: {}", refused.reason))
                .advice("build it again, see docs/plugins.md; until then it is as if there was no such file")
        }
        Some((info, _)) if info.version > 0 => Finding::ok("plugin", format!("{place}: loaded")),
        _ => Finding::ok("plugin", format!("{place}: used by nothing")),
    });
    found
}

/// Whoever runs the gateway may read what this user may not; nobody can read what is no file.
fn unreadable(text: &str, kind: io::ErrorKind) -> Finding {
    match kind {
        io::ErrorKind::PermissionDenied => Finding::warning("plugin", format!("cannot read {text}"))
            .advice("let who runs the gateway read it; root can see all of it here"),
        _ => Finding::error("plugin", format!("cannot read {text}"))
            .advice("put a file there that can be read, or take it away"),
    }
}

/// What `sha256sum` wrote of a file, in a file beside it. None if there is no such file.
fn expected(path: &Path) -> Result<Option<String>, ReadError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".sha256");
    match files::read_text(Path::new(&beside), files::SECRET) {
        Ok(text) => Ok(Some(text.split_whitespace().next().unwrap_or("nothing").to_ascii_lowercase())),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}
