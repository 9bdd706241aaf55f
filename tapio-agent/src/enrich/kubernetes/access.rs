//! Where the API server is, and what it takes to speak to it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::config::Kubernetes as Mode;

/// Where a pod finds its token.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";
const KUBECONFIG: &str = "KUBECONFIG";

/// For a connection, and for writing a request.
const CONNECT: Duration = Duration::from_secs(5);
/// For the next bytes: a connection that a gateway on the way has forgotten brings nothing, for ever.
const SILENCE: Duration = Duration::from_secs(90);

/// A way to the API server. What it takes is read anew each time a client is made, so that what was rotated is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As the pod that the agent runs in.
    InCluster,
    /// By these files.
    Kubeconfig(Vec<PathBuf>),
}

/// Whether this is a pod.
#[must_use]
pub fn in_pod() -> bool {
    std::env::var_os(IN_CLUSTER).is_some_and(|value| !value.is_empty())
}

impl Access {
    /// The way that the environment shows, if there is one and it is wanted.
    ///
    /// # Errors
    /// There has to be one and there is none.
    pub fn find(mode: Mode) -> anyhow::Result<Option<Self>> {
        Self::find_in(mode, |name| std::env::var_os(name), Path::new(TOKEN))
    }

    fn find_in(
        mode: Mode,
        variable: impl Fn(&str) -> Option<OsString>,
        token: &Path,
    ) -> anyhow::Result<Option<Self>> {
        if mode == Mode::Off {
            return Ok(None);
        }
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let files = set(KUBECONFIG).map(|list| std::env::split_paths(&list).collect::<Vec<_>>());
        let in_pod = set(IN_CLUSTER).is_some();
        match files {
            Some(files) => Ok(Some(Self::Kubeconfig(files))),
            None if in_pod && token.is_file() => Ok(Some(Self::InCluster)),
            None if mode == Mode::Auto => Ok(None),
            None if in_pod => bail!(
                "--kubernetes=on (key `kubernetes`): this pod has no {}: set automountServiceAccountToken: true in \
                 it or in its service account",
                token.display()
            ),
            None => bail!(
                "--kubernetes=on (key `kubernetes`): no cluster is found: {IN_CLUSTER}, which pods have, and \
                 {KUBECONFIG} are not set. Set KUBECONFIG to a file that names the cluster, or give --kubernetes=off"
            ),
        }
    }

    /// What it goes by, for people.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::InCluster => "the pod's service account".to_owned(),
            Self::Kubeconfig(files) => {
                let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
                format!("{KUBECONFIG} {}", files.join(":"))
            }
        }
    }

    /// Reads what it takes and makes a client, without speaking to the server yet.
    ///
    /// # Errors
    /// A file that cannot be read, or is not what it should be.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let mut config = match self {
            Self::InCluster => Config::incluster().context("the pod's service account cannot be read")?,
            Self::Kubeconfig(files) => {
                let mut merged = Kubeconfig::default();
                for file in files.iter().filter(|file| !file.as_os_str().is_empty()) {
                    let one = Kubeconfig::read_from(file);
                    merged = one
                        .and_then(|one| merged.merge(one))
                        .with_context(|| format!("{KUBECONFIG}: {} cannot be read", file.display()))?;
                }
                Config::from_custom_kubeconfig(merged, &KubeConfigOptions::default())
                    .await
                    .with_context(|| format!("{} is not usable", self.place()))?
            }
        };
        config.connect_timeout = Some(CONNECT);
        config.write_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        // Else what it was idle before a request would count.
        config.reset_reader_on_write = true;
        // What is sent is counted and limited where it is sent.
        config.default_retry = false;
        Client::try_from(config).context("there can be no client")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(mode: Mode, set: &[(&str, &str)], token: &str) -> Result<Option<Access>, String> {
        let variable = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
        Access::find_in(mode, variable, Path::new(token)).map_err(|error| error.to_string())
    }

    #[test]
    fn where_the_cluster_is() {
        let pod = (IN_CLUSTER, "10.96.0.1");
        let file = (KUBECONFIG, "/a:/b");
        let files = Access::Kubeconfig(vec!["/a".into(), "/b".into()]);
        let here = "/proc/self/stat";
        for (mode, set, token, expected) in [
            (Mode::Auto, &[][..], here, None),
            (Mode::Auto, &[pod], here, Some(Access::InCluster)),
            (Mode::Auto, &[pod], "/nothing", None),
            (Mode::Auto, &[pod, file], here, Some(files.clone())),
            (Mode::On, &[file], "/nothing", Some(files.clone())),
            (Mode::On, &[pod, (KUBECONFIG, "")], here, Some(Access::InCluster)),
            (Mode::Off, &[pod, file], here, None),
        ] {
            assert_eq!(find(mode, set, token), Ok(expected), "{mode:?} {set:?} {token}");
        }
        let error = find(Mode::On, &[], here).unwrap_err();
        assert!(error.contains("no cluster is found") && error.contains("Set KUBECONFIG"), "{error}");
        let error = find(Mode::On, &[pod], "/nothing").unwrap_err();
        assert!(error.contains("automountServiceAccountToken"), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_named() {
        let error = Access::Kubeconfig(vec!["/nothing".into()]).client().await.err().unwrap();
        assert!(format!("{error:#}").contains("/nothing"), "{error:#}");
    }
}
