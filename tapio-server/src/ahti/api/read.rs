//! The typed values that the API and the pages carry. Whatever somebody is shown goes through here.

use tapio_ahti::{
    about::About,
    answer::Answer,
    blast::Blast,
    changes::Changed,
    incident::{Coverage, Incident, Name},
};
use tokio::task::block_in_place;

use super::Refused;
use crate::ahti::{Ahti, auth::Viewer, past::Knows};

/// All incidents, the newest first.
pub(in crate::ahti) async fn incidents(ahti: &Ahti, viewer: &Viewer) -> Result<Vec<Incident>, Refused> {
    viewer.see(ahti, ahti.incidents()).await
}

/// One incident, in full.
pub(super) fn found(ahti: &Ahti, id: &str) -> Option<Incident> {
    let is = |incident: &&Incident| incident.id.eq_ignore_ascii_case(id);
    block_in_place(|| ahti.engine().incidents().into_iter().find(is).cloned())
}

/// One incident.
pub(in crate::ahti) async fn incident(
    ahti: &Ahti,
    viewer: &Viewer,
    id: &str,
) -> Result<Option<Incident>, Refused> {
    Ok(viewer.see(ahti, Vec::from_iter(found(ahti, id))).await?.pop())
}

/// What is looked at.
pub(in crate::ahti) async fn coverage(from: &impl Knows, viewer: &Viewer) -> Result<Coverage, Refused> {
    let coverage = block_in_place(|| from.engine().coverage());
    viewer.see(from, coverage).await
}

/// Why an object fails.
pub(in crate::ahti) async fn why(ahti: &Ahti, viewer: &Viewer, of: &Name) -> Result<Answer, Refused> {
    viewer.require(&of.place()).await?;
    let answer = block_in_place(|| ahti.engine().why(Some(&of.kind), of.namespace.as_deref(), &of.name));
    viewer.see(ahti, answer).await
}

/// All changes, the newest first.
pub(in crate::ahti) async fn changes(ahti: &Ahti, viewer: &Viewer) -> Result<Vec<Changed>, Refused> {
    let changes = block_in_place(|| ahti.engine().changes());
    viewer.see(ahti, changes).await
}

/// What is known of an entity.
pub(in crate::ahti) async fn about(
    from: &impl Knows,
    viewer: &Viewer,
    of: &Name,
) -> Result<Option<About>, Refused> {
    viewer.require(&of.place()).await?;
    let about = block_in_place(|| from.engine().about(of));
    viewer.see(from, about).await
}

/// How far an incident reaches.
pub(in crate::ahti) async fn blast(ahti: &Ahti, viewer: &Viewer, id: &str) -> Result<Option<Blast>, Refused> {
    let blast = block_in_place(|| ahti.engine().blast(id));
    viewer.see(ahti, blast).await
}
