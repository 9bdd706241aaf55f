//! The programs, from Go modules that are pinned in `xtask/kube`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::programs_directory;
use crate::{go, machine};

/// Programs from one Go module.
struct Module {
    /// The directory in `xtask/kube` with the pinning `go.mod` and `go.sum`.
    pins: &'static str,
    path: &'static str,
    /// The linker variable that tells the program its version.
    version_variable: Option<&'static str>,
    /// The directory of the programs' packages, within the module.
    packages: &'static str,
    programs: &'static [&'static str],
}

const MODULES: &[Module] = &[
    // etcd's only program is the module itself.
    Module {
        pins: "etcd",
        path: "go.etcd.io/etcd/server/v3",
        version_variable: None,
        packages: "",
        programs: &["etcd"],
    },
    Module {
        pins: "kubernetes",
        path: "k8s.io/kubernetes",
        version_variable: Some("k8s.io/component-base/version.gitVersion"),
        packages: "cmd",
        programs: &[
            "kube-apiserver",
            "kubectl",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
        ],
    },
    Module {
        pins: "containerd",
        path: "github.com/containerd/containerd/v2",
        version_variable: Some("github.com/containerd/containerd/v2/version.Version"),
        packages: "cmd",
        programs: &["containerd", "containerd-shim-runc-v2", "ctr"],
    },
    Module {
        pins: "helm",
        path: "helm.sh/helm/v3",
        version_variable: Some("helm.sh/helm/v3/internal/version.version"),
        packages: "cmd",
        programs: &["helm"],
    },
];

/// Builds missing or outdated programs, all or the named ones. Returns their directory.
pub(super) fn build(wanted: &[&str]) -> Result<PathBuf> {
    let known = |name: &&&str| MODULES.iter().any(|module| module.programs.contains(name));
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        let names: Vec<_> = MODULES.iter().flat_map(|module| module.programs).copied().collect();
        bail!("there is no program `{unknown}`; there are {}", names.join(", "));
    }
    let directory = programs_directory()?;
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for module in MODULES {
        for name in module.programs.iter().filter(|name| wanted.is_empty() || wanted.contains(name)) {
            module.build(name, &directory)?;
        }
    }
    Ok(directory)
}

impl Module {
    fn build(&self, name: &str, directory: &Path) -> Result<()> {
        let program = directory.join(name);
        if !go::is_there() {
            // A program put there by the user is used as it is.
            if program.is_file() {
                return Ok(());
            }
            bail!("{}, or set KUBEBUILDER_ASSETS to where it is", go::missing_for(&program));
        }
        let pins = self.pins();
        let version =
            machine::output(go::command(&pins)?.args(["list", "-m", "-f", "{{.Version}}", self.path]))?;
        let version = version.trim();
        if self.is_there(&program, version) {
            return Ok(());
        }
        eprintln!("building {name} {version}");
        let start = Instant::now();
        let variable = self.version_variable.map(|variable| format!("{variable}={version}"));
        let package = match self.packages {
            "" => self.path.to_owned(),
            packages => format!("{}/{packages}/{name}", self.path),
        };
        go::build(&pins, &package, variable.as_deref(), &program)?;
        eprintln!("built {name} {version} in {} s", start.elapsed().as_secs());
        Ok(())
    }

    fn is_there(&self, program: &Path, version: &str) -> bool {
        let reported = Command::new("go").args(["version", "-m"]).arg(program).stderr(Stdio::null()).output();
        reported.is_ok_and(|reported| {
            let text = String::from_utf8_lossy(&reported.stdout);
            // `mod` for the program's own module, `dep` for the module it was built from; then path, version,
            // sum.
            text.lines().any(|line| line.split_whitespace().skip(1).take(2).eq([self.path, version]))
        })
    }

    fn pins(&self) -> PathBuf {
        Path::new("kube").join(self.pins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_refused() {
        let error = build(&["kube-apisever"]).unwrap_err().to_string();
        assert!(error.contains("kube-apisever") && error.contains("kube-apiserver, kubectl"), "{error}");
    }

    #[test]
    fn every_module_is_pinned() -> Result<()> {
        for module in MODULES {
            let pins = Path::new(env!("CARGO_MANIFEST_DIR")).join("kube").join(module.pins);
            let required = fs::read_to_string(pins.join("go.mod"))?;
            assert!(required.contains(&format!("{} v", module.path)), "{}", module.pins);
            assert!(fs::read_to_string(pins.join("go.sum"))?.contains(module.path), "{}", module.pins);
        }
        Ok(())
    }
}
