//! The volume of a pod that an anomaly is about.

use serde::{Deserialize, Serialize};

/// A volume of a pod, as the kubelet mounts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name in the pod's spec, or the name of its PersistentVolume if it belongs to a claim.
    pub name: String,
    /// UID of the pod; `None` if several pods share the volume.
    pub pod_uid: Option<String>,
}

/// Plugins whose volumes hold objects of the API, which nobody fills.
const OF_THE_API: &[&str] = &["secret", "configmap", "projected", "downward-api"];

impl Volume {
    /// Parses the path of a mount: `.../pods/UID/volumes/kubernetes.io~PLUGIN/NAME`, or with `/mount` after it.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        let (_, name, pod_uid) = parts(path)?;
        Some(Self { name: name.to_owned(), pod_uid: Some(pod_uid.to_owned()) })
    }

    /// Whether the path is that of a volume with objects of the API: Secrets, ConfigMaps, tokens.
    #[must_use]
    pub fn is_of_the_api(path: &str) -> bool {
        parts(path).is_some_and(|(plugin, ..)| OF_THE_API.contains(&plugin))
    }
}

/// Plugin, name, and UID of the pod.
fn parts(path: &str) -> Option<(&str, &str, &str)> {
    let (_, path) = path.rsplit_once("/pods/")?;
    let mut parts = path.split('/');
    let (uid, volumes, plugin, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (_, plugin) = plugin.split_once('~')?;
    let is_whole = matches!((parts.next(), parts.next()), (None | Some("mount"), None));
    let is_named = !uid.is_empty() && !name.is_empty();
    (volumes == "volumes" && is_named && is_whole).then_some((plugin, name, uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_volume_and_pod() {
        let of = |path: &str| Volume::of_path(path).map(|volume| (volume.name, volume.pod_uid.unwrap()));
        let found = |name: &str| Some((name.to_owned(), "u-1".to_owned()));
        let kubelet = "/var/lib/kubelet/pods/u-1";
        assert_eq!(of(&format!("{kubelet}/volumes/kubernetes.io~csi/pvc-7/mount")), found("pvc-7"));
        assert_eq!(of(&format!("{kubelet}/volumes/kubernetes.io~empty-dir/cache")), found("cache"));
        assert_eq!(of("/data/kubelet/pods/u-1/volumes/ceph.com~rbd/x"), found("x"));
        for other in [
            "/var/lib/kubelet",
            "/var/lib/kubelet/pods/u-1/volume-subpaths/pvc-7/app/0",
            "/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/pvc-7/mount/inner",
            "/srv/pods/u-1/volumes/plain/x",
            "/pods//volumes/kubernetes.io~csi/x",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        for (plugin, is_of_the_api) in [("projected", true), ("secret", true), ("csi", false)] {
            let path = format!("{kubelet}/volumes/kubernetes.io~{plugin}/x");
            assert_eq!(Volume::is_of_the_api(&path), is_of_the_api, "{path}");
        }
    }
}
