//! Who takes care of an incident, and what nobody wants to hear of until a time.

use axum::{
    Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
    routing::{get, post},
};
use jiff::{SignedDuration, Timestamp, civil::Time, tz::TimeZone};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tapio_ahti::{
    answer,
    attention::{self as ahti_attention, NAMESPACE},
    incident::{Mute, Name},
};
use tapio_occurrence::attention::{Act, Attention, MAX_REASON, SOURCE};
use tapio_service::clock;

use super::{
    Known, Refused, Route,
    document::Operation,
    keep,
    question::{Noted, Nothing},
    read, seen,
};
use crate::ahti::{Ahti, auth::Viewer};

/// The longest mute: what is forgotten for longer is forgotten for good.
const MAX: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The longest name, in bytes.
const MAX_NAME: usize = 253;

pub(super) fn routes() -> [Route; 3] {
    let acks = Operation::posts::<Acked, Noted>("ack", "Says that somebody takes care of an incident");
    let mutes_one = Operation::posts::<Muted, Noted>("mute", "Notifies nobody of an incident until a time");
    let mutes_all =
        Operation::posts::<MutedObject, Noted>("muteObject", "The same for an object or a namespace");
    let lists = Operation::reads::<Nothing, Mutes>("mutes", "Objects and namespaces that are muted");
    [
        Route { path: "/api/v1/incidents/{id}/ack", serves: post(ack), operations: vec![acks] },
        Route { path: "/api/v1/incidents/{id}/mute", serves: post(mute), operations: vec![mutes_one] },
        Route {
            path: "/api/v1/mutes",
            serves: get(mutes).post(mute_object),
            operations: vec![lists, mutes_all],
        },
    ]
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Acked {
    reason: Option<String>,
    #[serde(default)]
    undo: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Muted {
    until: Option<String>,
    r#for: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    undo: bool,
}

/// A mute of all incidents of an object, or of a namespace.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MutedObject {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    until: Option<String>,
    r#for: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    undo: bool,
}

/// A list of mutes.
#[derive(Debug, Serialize, JsonSchema)]
struct Mutes {
    mutes: Vec<Mute>,
}

async fn ack(
    State(ahti): Known,
    viewer: Viewer,
    Path(id): Path<String>,
    acked: Result<Json<Acked>, JsonRejection>,
) -> Result<Json<Noted>, Refused> {
    let Acked { reason, undo } = body(acked)?;
    let act = if undo { Act::Unack } else { Act::Ack };
    of_incident(&ahti, &viewer, &id, Attention { reason: checked(reason)?, ..new(act, &viewer) }).await
}

async fn mute(
    State(ahti): Known,
    viewer: Viewer,
    Path(id): Path<String>,
    muted: Result<Json<Muted>, JsonRejection>,
) -> Result<Json<Noted>, Refused> {
    let Muted { until, r#for, reason, undo } = body(muted)?;
    let said = muting(&viewer, until, r#for, reason, undo)?;
    of_incident(&ahti, &viewer, &id, said).await
}

/// Those of objects and namespaces that go on.
async fn mutes(State(ahti): Known, viewer: Viewer) -> Result<Json<Mutes>, Refused> {
    let mutes = ahti.engine().mutes();
    Ok(Json(Mutes { mutes: viewer.see(&ahti, mutes).await? }))
}

async fn mute_object(
    State(ahti): Known,
    viewer: Viewer,
    muted: Result<Json<MutedObject>, JsonRejection>,
) -> Result<Json<Noted>, Refused> {
    let MutedObject { kind, namespace, name, until, r#for, reason, undo } = body(muted)?;
    let said = muting(&viewer, until, r#for, reason, undo)?;
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    let of = match (kind.as_deref(), namespace.as_deref(), name.as_deref()) {
        (None, Some(namespace), None) => Name::new(NAMESPACE, None, namespace),
        (Some(kind), namespace, Some(name)) => {
            let Some(known) = answer::kind(kind) else {
                return Err(wrong(format!("kind: there is no {kind}")));
            };
            let is_of_cluster = answer::is_of_cluster(kind);
            if namespace.is_none() && !is_of_cluster {
                return Err(wrong(format!("namespace: give that of the {known}")));
            }
            Name::new(known, namespace.filter(|_| !is_of_cluster), name)
        }
        _ => return Err(wrong("give kind, namespace and name of an object, or only a namespace".to_owned())),
    };
    if of.name.is_empty() || of.name.len().max(of.namespace.as_ref().map_or(0, String::len)) > MAX_NAME {
        return Err(wrong(format!("{of}: a name has 1 to {MAX_NAME} bytes")));
    }
    let place = ahti_attention::place(&of);
    viewer.require(&place).await?;
    viewer.require_update(&place, &format!("mute {of}")).await?;
    let message = format!("{of}: {}", said.act.word());
    let said = Attention { kind: Some(of.kind), namespace: of.namespace, name: Some(of.name), ..said };
    keep(&ahti, SOURCE, message, &said).await
}

/// Notes what somebody says of an incident. It is on disk before this answers, and in the next answer.
async fn of_incident(
    ahti: &Ahti,
    viewer: &Viewer,
    id: &str,
    said: Attention,
) -> Result<Json<Noted>, Refused> {
    seen(ahti, viewer, id).await?;
    let Some(incident) = read::found(ahti, id) else {
        return Err(Refused(StatusCode::NOT_FOUND, format!("{id}: there is no such incident")));
    };
    let to = match said.act {
        Act::Ack | Act::Unack => "acknowledge this incident",
        Act::Mute | Act::Unmute => "mute this incident",
    };
    viewer.require_update(&incident.place(), to).await?;
    let message = format!("{}: {}", incident.id, said.act.word());
    let said = Attention {
        incident: Some(incident.id),
        fingerprint: Some(incident.fingerprint),
        since_unix_ns: Some(incident.since_unix_ns),
        ..said
    };
    keep(ahti, SOURCE, message, &said).await
}

fn new(act: Act, viewer: &Viewer) -> Attention {
    Attention {
        act,
        by: viewer.name().map(|name| name.chars().take(MAX_REASON).collect()),
        incident: None,
        fingerprint: None,
        since_unix_ns: None,
        kind: None,
        namespace: None,
        name: None,
        until_unix_ns: None,
        reason: None,
    }
}

fn muting(
    viewer: &Viewer,
    until: Option<String>,
    lasts: Option<String>,
    reason: Option<String>,
    undo: bool,
) -> Result<Attention, Refused> {
    let reason = checked(reason)?;
    if undo {
        return match until.or(lasts) {
            None => Ok(Attention { reason, ..new(Act::Unmute, viewer) }),
            Some(_) => Err(wrong("undo: ends a mute now; leave out until and for".to_owned())),
        };
    }
    let now = i128::from(clock::unix_ns(clock::boot_ns()));
    let now = Timestamp::from_nanosecond(now).map_err(|error| wrong(error.to_string()))?;
    let end = end(now, until.as_deref(), lasts.as_deref()).map_err(wrong)?;
    let until_unix_ns = u64::try_from(end.as_nanosecond()).ok();
    Ok(Attention { until_unix_ns, reason, ..new(Act::Mute, viewer) })
}

/// When a mute ends.
fn end(now: Timestamp, until: Option<&str>, lasts: Option<&str>) -> Result<Timestamp, String> {
    let end = match (until, lasts) {
        (Some(text), None) => moment(now, text)?,
        (None, Some(text)) => {
            let lasts: SignedDuration =
                text.parse().map_err(|_| format!("for: `{text}` is not a duration such as 90m or 2h"))?;
            now.checked_add(lasts).map_err(|_| format!("for: {text} is too long"))?
        }
        _ => return Err("give until, such as 06:00, or for, such as 2h".to_owned()),
    };
    if end <= now {
        return Err(match (until, lasts) {
            (Some(text), _) => format!("until: {text} is past: it is {now:.0} now"),
            _ => format!("for: `{}` is not more than nothing", lasts.unwrap_or_default()),
        });
    }
    if now.duration_until(end) > MAX {
        return Err(format!("a mute lasts 7 days at most: until {} if it begins now", now + MAX));
    }
    Ok(end)
}

/// A moment: a time with its date and offset, or the next time of day in UTC.
fn moment(now: Timestamp, text: &str) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    let wrong = || {
        format!("until: `{text}` is neither a time such as 2026-11-30T06:00:00Z nor 06:00, the next in UTC")
    };
    let time: Time = text.parse().map_err(|_| wrong())?;
    let today = now.to_zoned(TimeZone::UTC).date();
    let of =
        |date: jiff::civil::Date| date.to_datetime(time).to_zoned(TimeZone::UTC).map(|at| at.timestamp());
    let at = of(today).map_err(|_| wrong())?;
    if at > now {
        return Ok(at);
    }
    today.tomorrow().and_then(of).map_err(|_| wrong())
}

fn checked(reason: Option<String>) -> Result<Option<String>, Refused> {
    if reason.as_ref().is_some_and(|reason| reason.chars().count() > MAX_REASON) {
        return Err(wrong(format!("reason: longer than {MAX_REASON} characters")));
    }
    Ok(reason.filter(|reason| !reason.is_empty()))
}

fn body<T>(read: Result<Json<T>, JsonRejection>) -> Result<T, Refused> {
    read.map(|Json(read)| read).map_err(|error| wrong(error.body_text()))
}

fn wrong(what: String) -> Refused {
    Refused(StatusCode::BAD_REQUEST, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mute_ends_when_it_was_said() {
        let now: Timestamp = "2026-11-12T02:07:11Z".parse().unwrap();
        let at = |until, lasts| end(now, until, lasts).map(|end| end.to_string());
        for (until, lasts, expected) in [
            (Some("2026-11-12T08:00:00+02:00"), None, "2026-11-12T06:00:00Z"),
            (Some("06:00"), None, "2026-11-12T06:00:00Z"),
            (Some("02:07"), None, "2026-11-13T02:07:00Z"),
            (None, Some("2h"), "2026-11-12T04:07:11Z"),
            (None, Some("1h30m"), "2026-11-12T03:37:11Z"),
        ] {
            assert_eq!(at(until, lasts).as_deref(), Ok(expected), "{until:?} {lasts:?}");
        }
        for (until, lasts, expected) in [
            (Some("2026-11-12T02:07:10Z"), None, "is past: it is 2026-11-12T02:07:11Z now"),
            (Some("soon"), None, "`soon` is neither a time"),
            (None, Some("2"), "`2` is not a duration"),
            (None, Some("-2h"), "is not more than nothing"),
            (None, Some("169h"), "7 days at most"),
            (None, None, "give until"),
            (Some("06:00"), Some("2h"), "give until"),
        ] {
            let said = at(until, lasts).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
    }
}
