//! `ack` and `mute`: who takes care of an incident, and what nobody wants to hear of until a time.

use serde_json::{Value, json};
use tapio_ahti::answer::is_of_cluster;

use crate::{
    cli::{self, Acknowledgement, Muting, Reach, object},
    connection::Server,
    failure::Failure,
};

pub(crate) async fn ack(reach: &Reach, given: &Acknowledgement) -> Result<String, Failure> {
    let incident = cli::incident(&given.incident).map_err(Failure::Usage)?;
    let mut server = Server::connect(reach).await?;
    let body = json!({ "reason": given.reason, "undo": given.undo });
    server.post(&format!("/api/v1/incidents/{incident}/ack"), &body).await?;
    Ok(match given.undo {
        true => format!("{incident} is no longer acknowledged\n"),
        false => {
            format!("{incident} is acknowledged: only its end, and that it comes back, is still notified\n")
        }
    })
}

pub(crate) async fn mute(reach: &Reach, given: &Muting) -> Result<String, Failure> {
    let Muting { object: of, namespace, until, r#for: lasts, reason, undo } = given;
    let mut body = json!({ "until": until, "for": lasts, "reason": reason, "undo": undo });
    let is_incident = |text: &&String| text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("tap-"));
    let (path, what) = match (of.as_ref(), of.as_ref().filter(is_incident)) {
        (_, Some(incident)) => {
            let incident = cli::incident(incident).map_err(Failure::Usage)?;
            (format!("/api/v1/incidents/{incident}/mute"), incident)
        }
        (Some(of), None) => {
            let (kind, name) = object(of).map_err(Failure::Usage)?;
            let kind =
                kind.ok_or_else(|| Failure::Usage(format!("{of}: give KIND/NAME, such as deploy/{of}")))?;
            (body["kind"], body["name"]) = (kind.into(), name.into());
            ("/api/v1/mutes".to_owned(), of.clone())
        }
        (None, None) => ("/api/v1/mutes".to_owned(), "everything".to_owned()),
    };
    let mut server = Server::connect(reach).await?;
    let mut place = String::new();
    let is_of_cluster = body["kind"].as_str().is_some_and(is_of_cluster);
    if path == "/api/v1/mutes" && !is_of_cluster {
        let namespace = namespace.as_deref().unwrap_or(&server.namespace);
        body["namespace"] = Value::from(namespace);
        place = format!(" in {namespace}");
    }
    server.post(&path, &body).await?;
    let end = until.as_ref().map(|until| format!("until {until}"));
    let end = end.or_else(|| lasts.as_ref().map(|lasts| format!("for {lasts}"))).unwrap_or_default();
    Ok(match undo {
        true => format!("{what}{place} is no longer muted\n"),
        false => {
            format!("{what}{place} is muted {end}; what is open then is notified once\n")
        }
    })
}
