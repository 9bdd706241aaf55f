//! A request over a connection of its own, so that each refusal is seen.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time to connect, and to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The largest answer.
const MAX_ANSWER: u64 = 64 << 10;

/// Asks a host, and returns the status.
pub(crate) async fn get(host: &str, port: u16, path: &str) -> Result<u16> {
    let connected = timeout(PATIENCE, TcpStream::connect((host, port))).await;
    let mut stream = connected.with_context(|| format!("{host}: connecting took too long"))?;
    let stream = stream.as_mut().map_err(|error| anyhow::anyhow!("{host}: {error}"))?;
    let exchange = async {
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(PATIENCE, exchange).await.with_context(|| format!("{host}: no answer in time"))?;
    let answer = answer.with_context(|| format!("{host}: the connection broke"))?;
    status(&String::from_utf8_lossy(&answer)).with_context(|| format!("{host}: no answer of HTTP"))
}

/// `http://HOST:PORT/PATH`
pub(crate) async fn get_url(url: &str) -> Result<u16> {
    let Some((place, path)) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')) else {
        bail!("`{url}` is not http://HOST:PORT/PATH");
    };
    let (host, port) = place.rsplit_once(':').context("the URL has no port")?;
    get(host, port.parse().context("the URL's port is no number")?, &format!("/{path}")).await
}

fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
}
