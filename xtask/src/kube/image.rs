//! Container images from directories, as archives that container runtimes import.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::{arch::Arch, machine};

/// Writes an image with a directory as its root and this command.
pub(super) fn write(name: &str, root: &Path, command: &[&str], out: &mut impl Write) -> Result<()> {
    let directory = std::env::temp_dir().join(format!("tapio-image-{}", std::process::id()));
    fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let written = write_in(&directory, name, root, command, out);
    fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    written
}

fn write_in(directory: &Path, name: &str, root: &Path, command: &[&str], out: &mut impl Write) -> Result<()> {
    let layer = directory.join("layer.tar");
    machine::run(tar().arg("-f").arg(&layer).arg("-C").arg(root).arg("."))?;
    let sum = machine::output(Command::new("sha256sum").arg(&layer))?;
    let digest = sum.split(' ').next().unwrap_or_default();
    let config = json!({
        "architecture": Arch::native()?.name(), "os": "linux",
        "config": { "Cmd": command, "Env": ["PATH=/usr/bin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    for (file, content) in [("config.json", config), ("manifest.json", manifest)] {
        fs::write(directory.join(file), content.to_string())
            .with_context(|| format!("cannot write {file}"))?;
    }
    let archive = directory.join("image.tar");
    let mut tar = tar();
    tar.arg("-f").arg(&archive).arg("-C").arg(directory);
    machine::run(tar.args(["manifest.json", "config.json", "layer.tar"]))?;
    let mut file = fs::File::open(&archive).context("the archive is gone")?;
    io::copy(&mut file, out).context("the archive cannot be written")?;
    Ok(())
}

/// Records no owner and no time.
fn tar() -> Command {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--owner=0", "--group=0", "--sort=name", "--mtime=@0", "-c"]);
    tar
}
