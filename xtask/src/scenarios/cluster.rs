//! The cluster, as kubectl and kubectl-tapio see it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use super::answer::{Answer, Incident};
use super::file::Step;
use crate::arch::Arch;
use crate::{kube, machine, portable};

/// The application's namespace.
pub(super) const SHOP: &str = "shop";
/// Time between two looks.
pub(super) const LOOK: Duration = Duration::from_secs(2);

pub(super) struct Cluster {
    /// The way to the server.
    tapio: PathBuf,
}

impl Cluster {
    /// The cluster that is up, and a `kubectl-tapio` built from this source.
    pub(super) fn find() -> Result<Self> {
        let mut cargo = portable::cargo(Arch::native()?, "build", portable::QUICK)?;
        machine::run(cargo.args(["--package", "tapio-cli"]))?;
        Ok(Self { tapio: portable::binary(Arch::native()?, portable::QUICK, "kubectl-tapio")? })
    }

    /// Runs kubectl and returns its output.
    pub(super) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut kubectl = kube::kubectl()?;
        checked(kubectl.args(arguments))
    }

    pub(super) fn apply(&self, manifest: &str) -> Result<()> {
        let mut kubectl = kube::kubectl()?;
        kubectl.args(["apply", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = kubectl.spawn().context("cannot run kubectl")?;
        let input = child.stdin.take().context("kubectl has no input")?;
        let written = { input }.write_all(manifest.as_bytes());
        let status = child.wait().context("cannot wait for kubectl")?;
        written.context("kubectl does not read the manifest")?;
        match status.success() {
            true => Ok(()),
            false => bail!("kubectl apply failed ({status})"),
        }
    }

    pub(super) fn apply_file(&self, path: &Path) -> Result<()> {
        self.kubectl(&["apply", "-f", &path.to_string_lossy()]).map(drop)
    }

    /// Waits until a rollout is complete.
    pub(super) fn rolled_out(&self, what: &str, namespace: &str) -> Result<()> {
        let namespace = format!("--namespace={namespace}");
        self.kubectl(&["rollout", "status", what, &namespace, "--timeout=180s"]).map(drop)
    }

    /// What Tapio says about an object of the application; `None` if it says nothing.
    pub(super) fn why(&self, object: &str) -> Result<Option<Incident>> {
        let namespace = format!("--namespace={SHOP}");
        let output = self.tapio(&["why", object, &namespace, "--output=json"])?;
        if !output.status.success() {
            // It is not known yet.
            return Ok(None);
        }
        Ok(json::<Answer>(&output)?.incident)
    }

    /// The same for people, with every cause that was considered.
    pub(super) fn why_text(&self, object: &str) -> Result<String> {
        let output = self.tapio(&["why", object, &format!("--namespace={SHOP}"), "--output=wide"])?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    pub(super) fn incidents(&self) -> Result<Vec<Incident>> {
        let output = self.tapio(&["get", "incidents", "--output=json"])?;
        match output.status.success() {
            true => json(&output),
            false => bail!("kubectl tapio: {}", String::from_utf8_lossy(&output.stderr).trim_end()),
        }
    }

    /// The report of `kubectl tapio doctor`.
    pub(super) fn doctor(&self) -> Result<String> {
        let output = self.tapio(&["doctor"])?;
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
    }

    /// All facts of the server, one JSON object a line.
    pub(super) fn facts(&self) -> Result<Vec<u8>> {
        let output = self.tapio(&["export"])?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => bail!("kubectl tapio export: {}", String::from_utf8_lossy(&output.stderr).trim_end()),
        }
    }

    fn tapio(&self, arguments: &[&str]) -> Result<Output> {
        let mut tapio = Command::new(&self.tapio);
        tapio.args(arguments).env("KUBECONFIG", kube::kubeconfig()).env_remove("TAPIO_SERVER");
        tapio.output().context("cannot run kubectl-tapio")
    }

    /// Performs a step of a scenario.
    pub(super) fn perform(&self, step: &Step) -> Result<()> {
        let done = self.attempt(step);
        match step.may_fail {
            true => Ok(()),
            false => done,
        }
    }

    fn attempt(&self, step: &Step) -> Result<()> {
        if let Some(seconds) = step.wait_s {
            thread::sleep(Duration::from_secs(seconds));
        }
        if let Some(manifest) = &step.apply {
            self.apply(manifest)?;
        }
        if let Some(words) = &step.kubectl {
            let words = self.filled(words)?;
            self.kubectl(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        if let Some(words) = &step.node {
            let words = self.filled(words)?;
            self.on_node(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        if let Some(name) = &step.stop {
            kube::cluster_stop(name)?;
        }
        if let Some(name) = &step.start {
            kube::cluster_start(name)?;
        }
        Ok(())
    }

    /// Runs a command in the node's network and mount namespaces, as root.
    pub(super) fn on_node(&self, words: &[&str]) -> Result<()> {
        checked(&mut kube::node_command(words)?).map(drop)
    }

    /// Puts addresses in place of `${ip:APP}`: that of the application's pod with this label.
    fn filled(&self, words: &[String]) -> Result<Vec<String>> {
        words.iter().map(|word| fill(word, |app| self.address(app))).collect()
    }

    fn address(&self, app: &str) -> Result<String> {
        let (namespace, label) = (format!("--namespace={SHOP}"), format!("--selector=app={app}"));
        let path = "--output=jsonpath={.items[0].status.podIP}";
        self.kubectl(&["get", "pods", &namespace, &label, path])
    }
}

/// Waits until `look` finds nothing missing; fails with what is still missing when the time is up.
pub(super) fn until(patience: Duration, mut look: impl FnMut() -> Result<Option<String>>) -> Result<()> {
    let end = Instant::now() + patience;
    loop {
        let Some(missing) = look()? else { return Ok(()) };
        if Instant::now() > end {
            bail!("after {} s: {missing}", patience.as_secs());
        }
        thread::sleep(LOOK);
    }
}

/// Runs a command and returns its output. Its errors become the error's text.
fn checked(command: &mut Command) -> Result<String> {
    let line = machine::line_of(command);
    let output = command.output().with_context(|| format!("cannot run `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}`: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn json<T: DeserializeOwned>(output: &Output) -> Result<T> {
    serde_json::from_slice(&output.stdout).context("kubectl tapio answers something else")
}

fn fill(word: &str, address: impl Fn(&str) -> Result<String>) -> Result<String> {
    let Some((before, rest)) = word.split_once("${") else { return Ok(word.to_owned()) };
    let Some((what, after)) = rest.split_once('}') else { bail!("`{word}`: there is no }} after ${{") };
    let Some(app) = what.strip_prefix("ip:") else { bail!("`{word}`: ${{{what}}} is not ${{ip:APP}}") };
    Ok(format!("{before}{}{}", address(app)?, fill(after, address)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_filled_in() -> Result<()> {
        let address = |app: &str| Ok(format!("<{app}>"));
        assert_eq!(fill("--destination=${ip:a},${ip:b}/32", address)?, "--destination=<a>,<b>/32");
        assert_eq!(fill("--patch={\"a\":1}", address)?, "--patch={\"a\":1}");
        assert!(fill("${ip:a", address).is_err() && fill("${pod:a}", address).is_err());
        Ok(())
    }
}
