//! Key pairs and kubeconfigs, by OpenSSL.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The file with the CAs that clients trust.
pub(crate) const TRUST: &str = "trust.crt";

/// The purpose of a certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) enum For<'a> {
    /// Signs other certificates.
    Authority,
    /// A client, also one that signs tokens.
    Client,
    /// A server with these names, in OpenSSL's syntax: `IP:127.0.0.1, DNS:localhost`.
    Server(&'a str),
}

/// Creates `NAME.key` and `NAME.crt`, signed by `SIGNER.key`; a CA is self-signed.
pub(crate) fn make(
    directory: &Path,
    name: &str,
    subject: &str,
    purpose: For<'_>,
    signer: &str,
) -> Result<()> {
    let file = |name: &str, ending: &str| directory.join(format!("{name}.{ending}"));
    let config = file("openssl", "cnf");
    fs::write(&config, "[req]\ndistinguished_name = dn\n[dn]\n")
        .with_context(|| format!("cannot write {}", config.display()))?;
    let extension = match purpose {
        For::Authority => "basicConstraints = critical, CA:true".to_owned(),
        For::Client => "extendedKeyUsage = clientAuth".to_owned(),
        For::Server(names) => format!("subjectAltName = {names}"),
    };
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-days", "30", "-nodes", "-newkey", "ec"]);
    openssl.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", subject, "-addext", &extension]);
    openssl.arg("-config").arg(&config);
    if !matches!(purpose, For::Authority) {
        openssl.arg("-CA").arg(file(signer, "crt")).arg("-CAkey").arg(file(signer, "key"));
    }
    openssl.arg("-keyout").arg(file(name, "key")).arg("-out").arg(file(name, "crt"));
    let output = openssl.stdin(Stdio::null()).output().context("cannot run openssl: install it")?;
    if !output.status.success() {
        bail!("openssl cannot make {name}.crt: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Creates a key pair for a user (CN) and group (O), and `NAME.kubeconfig` with it. Returns that file.
pub(crate) fn user(directory: &Path, name: &str, subject: &str, server: &str) -> Result<std::path::PathBuf> {
    make(directory, name, subject, For::Client, "ca")?;
    let path = directory.join(format!("{name}.kubeconfig"));
    let (dir, ca) = (directory.display(), directory.join(TRUST));
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: kube\n\
         contexts: [{{name: kube, context: {{cluster: kube, user: {name}}}}}]\n\
         clusters: [{{name: kube, cluster: {{server: \"{server}\", certificate-authority: \"{}\"}}}}]\n\
         users: [{{name: {name}, user: {{client-certificate: \"{dir}/{name}.crt\", client-key: \"{dir}/{name}.key\"}}}}]\n",
        ca.display(),
    );
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
