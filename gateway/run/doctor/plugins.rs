//! Whether the plugins that are used load and take their settings, and whether their files are the right ones.

use std::{fs, path::Path};

use super::{
    super::{blocking, uses::uses},
    finding::Finding,
};
use crate::{
    config::Config,
    files,
    plugin::{Cause, Digest, Origin, PluginInfo, Plugins},
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
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut entries: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "wasm")).collect();
    entries.sort();
    entries.iter().filter_map(|path| of_file(known, path)).collect()
}

fn of_file(known: &[PluginInfo], path: &Path) -> Option<Finding> {
    let name = path.file_stem()?.to_str()?;
    let bytes = files::read(path, files::STATE).ok()?;
    let digest = Digest::of(&bytes).to_string();
    let place = format!("{}, sha256 {digest}", path.display());
    if let Some(expected) = expected(path).filter(|expected| *expected != digest) {
        let text = format!("{place}: {}.sha256 says {expected}", path.display());
        let advice =
            "it is not the file that was meant: copy it again, or both files from where they were built";
        return Some(Finding::error("plugin", text).advice(advice));
    }
    let info = known.iter().find(|plugin| &*plugin.name == name)?;
    match &info.last_refusal {
        // A use that goes without it has said so above.
        Some(refused) if info.version == 0 || info.origin == Some(Origin::Shipped) => Some(
            Finding::error("plugin", format!("{place}: {}", refused.reason))
                .advice("build it again, see docs/plugins.md; until then it is as if there was no such file"),
        ),
        _ if info.version > 0 => Some(Finding::ok("plugin", format!("{place}: loaded"))),
        _ => Some(Finding::ok("plugin", format!("{place}: used by nothing"))),
    }
}

/// What `sha256sum` wrote of a file, in a file beside it.
fn expected(path: &Path) -> Option<String> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".sha256");
    let text = files::read_text(Path::new(&beside), files::SECRET).ok()?;
    text.split_whitespace().next().map(str::to_ascii_lowercase)
}
