//! Detects whether the doctor runs in a pod: the remedies are then lines for the pod's manifest.

use std::path::Path;

use tapio_kube::in_pod;

/// True if this process runs in a pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod(pub(super) bool);

impl Pod {
    /// The manifest line that sets NODE_NAME in the container.
    pub(super) const NODE_NAME: &str =
        "env: [{name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]";

    pub(super) fn here() -> Self {
        Self(in_pod())
    }

    pub(super) const fn is(self) -> bool {
        self.0
    }

    /// The remedy for a host directory that is missing at a path: the manifest lines in a pod, otherwise `other`.
    pub(super) fn or_mount(self, other: &str, host: &str, at: &Path) -> String {
        self.or(other, host, at, "", ", readOnly: true")
    }

    /// Like [`Self::or_mount`], for a writable directory.
    pub(super) fn or_writable(self, other: &str, directory: &Path) -> String {
        self.or(other, "/var/lib/tapio", directory, ", type: DirectoryOrCreate", "")
    }

    fn or(self, other: &str, host: &str, at: &Path, kind: &str, mode: &str) -> String {
        if !self.0 {
            return other.to_owned();
        }
        let name = host.trim_start_matches('/').replace('/', "-");
        format!(
            "give the pod volumes: [{{name: {name}, hostPath: {{path: {host}{kind}}}}}] and the container \
             volumeMounts: [{{name: {name}, mountPath: {}{mode}}}]",
            at.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_pod_the_remedy_is_the_manifest() {
        let proc = Path::new("/host/proc");
        assert_eq!(Pod(false).or_mount("mount it", "/proc", proc), "mount it");
        assert_eq!(
            Pod(true).or_mount("mount it", "/proc", proc),
            "give the pod volumes: [{name: proc, hostPath: {path: /proc}}] and the container volumeMounts: \
             [{name: proc, mountPath: /host/proc, readOnly: true}]"
        );
        assert_eq!(
            Pod(true).or_writable("make it so", Path::new("/var/lib/tapio")),
            "give the pod volumes: [{name: var-lib-tapio, hostPath: {path: /var/lib/tapio, type: DirectoryOrCreate}}] \
             and the container volumeMounts: [{name: var-lib-tapio, mountPath: /var/lib/tapio}]"
        );
    }
}
