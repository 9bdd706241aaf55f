//! The workloads of pods.

use tapio_occurrence::Workload;

use super::Reporter;
use crate::portti::form::{Form, key};

impl Reporter {
    /// The workload of a pod.
    pub(super) fn workload(&self, form: &Form, container: Option<&str>) -> anyhow::Result<Option<Workload>> {
        if form.reference().kind != "Pod" {
            return Ok(None);
        }
        let (owner_kind, owner) = self.owner(form)?.unzip();
        let of = container.and_then(|name| form.object.containers.iter().find(|c| c.name == name));
        Ok(Some(Workload {
            namespace: form.reference().namespace.clone(),
            pod: Some(form.reference().name.clone()),
            pod_uid: form.reference().uid.clone(),
            container: container.map(ToOwned::to_owned),
            image: of.map(|container| container.image.clone()),
            owner_kind,
            owner,
            ..Workload::default()
        }))
    }

    /// The workload that an operator knows: the Deployment of a ReplicaSet, the CronJob of a Job.
    fn owner(&self, form: &Form) -> anyhow::Result<Option<(String, String)>> {
        let Some(owner) = form.object.owners.first().filter(|owner| owner.kind != "Node") else {
            return Ok(None);
        };
        if owner.kind == "ReplicaSet" || owner.kind == "Job" {
            let above = self
                .store
                .form(&key(owner))?
                .filter(|above| above.uid() == owner.uid.as_deref().unwrap_or_default());
            match above {
                Some(above) => {
                    if let Some(owner) = above.object.owners.first() {
                        return Ok(Some((owner.kind.clone(), owner.name.clone())));
                    }
                }
                // A Deployment names its ReplicaSets after itself and the hash of the template.
                None => {
                    let hash = form.object.revision.as_deref().filter(|_| owner.kind == "ReplicaSet");
                    let name = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
                    if let Some(name) = name {
                        return Ok(Some(("Deployment".to_owned(), name.to_owned())));
                    }
                }
            }
        }
        Ok(Some((owner.kind.clone(), owner.name.clone())))
    }
}
