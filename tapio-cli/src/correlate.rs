//! `correlate`: what is known of a trace.

use tapio_ahti::correlate::{Correlation, is_trace_id};

use crate::{
    cli::{Correlate, Format, Reach},
    connection::{Server, quoted},
    failure::Failure,
    output,
};

pub(crate) async fn correlate(reach: &Reach, asked: &Correlate) -> Result<String, Failure> {
    let id = &asked.trace_id;
    if !is_trace_id(id) {
        return Err(Failure::Usage(format!(
            "--trace-id {id}: a trace id has 32 hexadecimal digits, not all of them 0"
        )));
    }
    let mut server = Server::connect(reach).await?;
    let found: Correlation = server.json(&format!("/api/v1/correlate?trace_id={}", quoted(id))).await?;
    let text = match asked.output {
        Format::Json => output::json(&found)?,
        Format::Text => found.text(),
        Format::Wide => {
            let coverage = server.json("/api/v1/coverage").await?;
            let incidents =
                found.incidents.iter().map(|incident| tapio_ahti::answer::text(incident, &coverage));
            found.text() + &incidents.collect::<String>()
        }
    };
    if found.nothing.is_some() { Err(Failure::NoData(text.trim_end().to_owned())) } else { Ok(text) }
}
