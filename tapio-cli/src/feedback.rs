//! `feedback`: tells the server whether an answer was right.

use serde_json::json;
use tapio_occurrence::feedback::MAX_NOTE;

use crate::{
    cli::{self, Judgement, Reach},
    connection::Server,
    failure::Failure,
};

pub(crate) async fn feedback(reach: &Reach, given: &Judgement) -> Result<String, Failure> {
    let incident = cli::incident(&given.incident).map_err(Failure::Usage)?;
    if given.note.as_ref().is_some_and(|note| note.chars().count() > MAX_NOTE) {
        return Err(Failure::Usage(format!("--note: at most {MAX_NOTE} characters")));
    }
    let mut server = Server::connect(reach).await?;
    let verdict = given.verdict.verdict();
    let body = json!({ "incident": incident, "verdict": verdict, "note": given.note });
    server.post("/api/v1/feedback", &body).await?;
    Ok(format!("{incident}: {} is noted, and counts in further answers\n", verdict.word()))
}
