//! A kube-apiserver with its etcd: objects, tokens and permissions, without nodes.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::certificate::{self, For};
use super::program::Program;

/// Time allowed until it answers.
const PATIENCE: Duration = Duration::from_secs(60);
/// Addresses of services; the first is the API server's own.
const SERVICES: &str = "10.96.0.0/16";
const SERVICE: &str = "10.96.0.1";

/// A server with its state in a directory.
#[derive(Clone, Debug)]
pub(crate) struct ApiServer {
    directory: PathBuf,
    /// The directory of the programs.
    programs: PathBuf,
    address: String,
    port: u16,
    etcd_port: u16,
}

impl ApiServer {
    /// Starts one with RBAC and Node authorization. `port` 0 picks a free one.
    pub(crate) fn start(programs: &Path, directory: &Path, address: &str, port: u16) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let empty = fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
        if !empty {
            bail!("{} is not empty: name another directory", directory.display());
        }
        let port = if port == 0 { free_port()? } else { port };
        let server = Self {
            directory: directory.to_owned(),
            programs: programs.to_owned(),
            address: address.to_owned(),
            port,
            etcd_port: free_port()?,
        };
        certificate::make(directory, "ca", "/CN=kube", For::Authority, "")?;
        let trust = directory.join(certificate::TRUST);
        fs::copy(directory.join("ca.crt"), &trust)
            .with_context(|| format!("cannot write {}", trust.display()))?;
        server.certify("ca")?;
        let client = "/O=system:masters/CN=kube-apiserver-kubelet-client";
        certificate::make(directory, "kubelet-client", client, For::Client, "ca")?;
        certificate::make(directory, "serviceaccount", "/CN=service-accounts", For::Client, "ca")?;
        certificate::user(directory, "admin", "/O=system:masters/CN=admin", &server.url())?;
        server.resume().inspect_err(|_| {
            // The returned error names the cause; a failure to stop adds nothing.
            let _ = server.pause();
        })?;
        Ok(server)
    }

    /// Creates its certificate, signed by `SIGNER.key`.
    pub(crate) fn certify(&self, signer: &str) -> Result<()> {
        let names = format!("IP:{}, IP:{SERVICE}, DNS:kubernetes.default.svc", self.address);
        certificate::make(&self.directory, "apiserver", "/CN=kube-apiserver", For::Server(&names), signer)
    }

    /// Starts those of its programs that do not run, and waits until the server answers.
    pub(crate) fn resume(&self) -> Result<()> {
        let file = |name: &str| format!("{}/{name}", self.directory.display());
        let etcd = self.program("etcd");
        let etcd_url = format!("http://127.0.0.1:{}", self.etcd_port);
        if etcd.pid().is_none() {
            let peer = format!("http://127.0.0.1:{}", free_port()?);
            let mut command = Command::new(self.programs.join("etcd"));
            command.arg(format!("--data-dir={}", file("etcd")));
            command.args(["--unsafe-no-fsync", "--log-level=warn"]);
            command.args(["--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &format!("default={peer}")]);
            etcd.start(command)?;
        }
        let server = self.program("kube-apiserver");
        if server.pid().is_none() {
            let mut command = Command::new(self.programs.join("kube-apiserver"));
            command.args([
                format!("--etcd-servers={etcd_url}"),
                format!("--bind-address={}", self.address),
                format!("--advertise-address={}", self.address),
                format!("--secure-port={}", self.port),
                format!("--tls-cert-file={}", file("apiserver.crt")),
                format!("--tls-private-key-file={}", file("apiserver.key")),
                format!("--client-ca-file={}", file("ca.crt")),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--enable-admission-plugins=NodeRestriction".to_owned(),
                "--allow-privileged".to_owned(),
                format!("--service-cluster-ip-range={SERVICES}"),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-key-file={}", file("serviceaccount.crt")),
                format!("--service-account-signing-key-file={}", file("serviceaccount.key")),
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
                format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
                format!("--kubelet-client-key={}", file("kubelet-client.key")),
            ]);
            server.start(command)?;
        }
        server.wait_until(PATIENCE, || self.answers())
    }

    /// Stops its programs and keeps their state.
    pub(crate) fn pause(&self) -> Result<()> {
        self.program("kube-apiserver").stop()?;
        self.program("etcd").stop()
    }

    /// One of its programs, `etcd` or `kube-apiserver`.
    pub(crate) fn program(&self, name: &'static str) -> Program {
        Program::new(name, &self.directory)
    }

    /// The kubeconfig of a user with all permissions.
    pub(crate) fn admin(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}:{}", self.address, self.port)
    }

    /// Runs kubectl as the admin and returns its output.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut kubectl = Command::new(self.programs.join("kubectl"));
        kubectl.arg(format!("--kubeconfig={}", self.admin().display())).args(arguments);
        let output = kubectl.stdin(Stdio::null()).output().context("cannot run kubectl")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("kubectl {} failed: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn answers(&self) -> bool {
        self.kubectl(&["get", "--raw", "/readyz"]).is_ok()
    }
}

/// Stops the programs of a directory, whoever started them, and removes it.
pub(crate) fn remove(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    if !directory.join("etcd.pid").is_file() {
        bail!("{} is not what `apiserver up` made: it is left alone", directory.display());
    }
    for name in ["kube-apiserver", "etcd"] {
        Program::new(name, directory).stop()?;
    }
    fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("there is no free port")?;
    Ok(listener.local_addr().context("there is no free port")?.port())
}
