//! `why`: the answer for one object or incident.

use tapio_ahti::{
    answer::{Answer, State},
    incident::Status,
};

use crate::{
    cli::{Asked, Reach, object},
    connection::{Server, quoted},
    failure::Failure,
    output,
};

/// Returns the text and the exit code.
pub(crate) async fn why(reach: &Reach, asked: &Asked) -> Result<(String, u8), Failure> {
    let is_incident = asked.object.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("tap-"));
    let (kind, name) =
        if is_incident { (None, "") } else { object(&asked.object).map_err(Failure::Usage)? };
    let mut server = Server::connect(reach).await?;
    let at = asked.at.as_deref().map(|at| format!("&at={}", quoted(at))).unwrap_or_default();
    let path = if is_incident {
        format!("/api/v1/why?incident={}{at}", quoted(&asked.object.to_ascii_uppercase()))
    } else {
        let namespace = asked.namespace.as_deref().unwrap_or(&server.namespace);
        let kind = kind.map(|kind| format!("&kind={kind}")).unwrap_or_default();
        format!("/api/v1/why?namespace={}&name={}{kind}{at}", quoted(namespace), quoted(name))
    };
    let answer: Answer = server.json(&path).await?;
    let text = output::answer(&answer, asked.output)?;
    match answer.state {
        State::Empty | State::Unknown => Err(Failure::NoData(text.trim_end().to_owned())),
        State::Incident | State::Quiet => {
            let is_open = answer.incident.is_some_and(|incident| incident.status != Status::Resolved);
            Ok((text, u8::from(asked.exit_code && is_open)))
        }
    }
}
