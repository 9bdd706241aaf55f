//! PORTTI as a role of the server.

use std::sync::Arc;

use serde_json::{Value, json};
use tapio_kube::Access;

use super::{Place, Status, elected::Elected, gateway::Gateway, lease::Lease, metrics::Metrics, run};
use crate::role::{self, Context, Started};

/// The state of the role; `None` where there is no cluster.
struct State(Option<(Arc<Status>, Metrics)>);

/// Starts the role.
///
/// # Errors
/// Kubernetes has to be watched, and there is no access to it.
pub(crate) fn start(context: &Context) -> anyhow::Result<Started> {
    let config = Arc::clone(&context.config);
    let mut stopped = context.stopped.clone();
    let stop = async move {
        // An error means that the server is gone, which also means stop.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let Some(access) = Access::find(config.portti.kubernetes)? else {
        tracing::warn!(
            "portti: Kubernetes is not watched: this is no pod with a service account, and KUBECONFIG is not set"
        );
        let run = async move {
            stop.await;
            Ok(())
        };
        return Ok(Started { run: Box::pin(run), state: Arc::new(State(None)) });
    };
    tracing::info!(access = access.place(), "portti: watching Kubernetes");
    let status = Arc::new(Status::default());
    let metrics = context.metrics.of_role(Metrics::registered);
    let state = Arc::new(State(Some((Arc::clone(&status), metrics))));
    let cluster: Option<Arc<str>> = config.cluster.get().map(Into::into);
    let gateway = Gateway::new(&config.portti.polku, cluster.clone())?;
    let mut journal = context.journal.of("portti");
    let run = async move {
        let place = Place {
            directory: config.state_dir.as_path().to_owned(),
            cluster,
            retained: config.journal.max_age.get(),
        };
        let settings = &config.portti;
        match (gateway, settings.lease.get()) {
            (None, _) => run(access, settings, place, &mut journal, status, stop).await,
            (Some(mut gateway), None) => run(access, settings, place, &mut gateway, status, stop).await,
            (Some(gateway), Some(lease)) => {
                let lease = Lease::new(access.clone(), lease.to_owned(), identity());
                let mut elected = Elected::new(gateway, lease, Arc::clone(&status));
                let done = run(access, settings, place, &mut elected, status, stop).await;
                elected.finish().await;
                done
            }
        }
    };
    Ok(Started { run: Box::pin(run), state })
}

/// What distinguishes this replica from others, and this run from others: the pod's name, and a random part.
fn identity() -> String {
    let host = rustix::system::uname();
    format!("{}_{}", host.nodename().to_string_lossy(), ulid::Ulid::generate())
}

impl role::State for State {
    fn ready(&self) -> Result<(), String> {
        match &self.0 {
            Some((status, _)) if !status.is_settled() => {
                Err("not all of Kubernetes has been listed yet".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn status(&self) -> Value {
        match &self.0 {
            Some((status, _)) => json!({
                "kinds": status.kinds(),
                "facts": status.facts(),
                "election": status.election(),
            }),
            None => json!({ "kubernetes": "not watched: no pod with a service account, and no KUBECONFIG" }),
        }
    }

    fn measure(&self) {
        if let Some((status, metrics)) = &self.0 {
            metrics.set(status);
        }
    }
}
