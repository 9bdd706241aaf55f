//! A name server in place of CoreDNS, for a cluster that has none: answers with records that it was given
//! (RFC 1035 section 4).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use tokio::net::UdpSocket;

use crate::settings::Settings;
use crate::stop;

const PORT: u16 = 53;
/// The longest message over UDP.
const MAX_MESSAGE: usize = 512;
const HEADER: usize = 12;
const NXDOMAIN: u8 = 3;
const TYPE_A: u16 = 1;
const TTL_S: u32 = 5;

/// Serves until SIGTERM.
pub(crate) async fn run(settings: &Settings) -> Result<()> {
    let records = records(&settings.records)?;
    let socket = UdpSocket::bind(("0.0.0.0", PORT)).await.context("cannot listen on port 53")?;
    println!("{} records", records.len());
    let serve = async {
        let mut message = [0; MAX_MESSAGE];
        loop {
            let (length, from) = socket.recv_from(&mut message).await.context("cannot receive")?;
            if let Some(answer) = message.get(..length).and_then(|query| answer(query, &records)) {
                // Who asked may be gone.
                let _ = socket.send_to(&answer, from).await;
            }
        }
    };
    tokio::select! {
        failed = serve => failed,
        stopped = stop::asked() => stopped,
    }
}

/// `NAME=ADDRESS` with white space between them.
fn records(text: &str) -> Result<BTreeMap<String, Ipv4Addr>> {
    let record = |word: &str| {
        let (name, address) =
            word.split_once('=').with_context(|| format!("`{word}` is not NAME=ADDRESS"))?;
        let address = address.parse().with_context(|| format!("`{word}` has no address"))?;
        Ok((name.to_ascii_lowercase(), address))
    };
    text.split_whitespace().map(record).collect()
}

/// The answer to a query with one question; `None` if it is none.
fn answer(query: &[u8], records: &BTreeMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    let header = query.get(..HEADER)?;
    let is_query = header[2] & 0x80 == 0;
    if !is_query || header[4..6] != [0, 1] {
        return None;
    }
    let (name, end) = name(query)?;
    let kind = u16::from_be_bytes(query.get(end..end + 2)?.try_into().ok()?);
    let known = records.get(&name);
    let address = known.filter(|_| kind == TYPE_A);
    let code = if known.is_some() { 0 } else { NXDOMAIN };

    let mut out = Vec::with_capacity(end + 20);
    out.extend(&header[..2]);
    // An authoritative answer, with the query's wish for recursion.
    out.extend([0x84 | header[2] & 1, 0x80 | code]);
    out.extend([0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    out.extend(query.get(HEADER..end + 4)?);
    if let Some(address) = address {
        // The name is the question's.
        out.extend([0xc0, 12, 0, 1, 0, 1]);
        out.extend(TTL_S.to_be_bytes());
        out.extend([0, 4]);
        out.extend(address.octets());
    }
    Some(out)
}

/// The name of the first question, and where it ends.
fn name(query: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        match length {
            0 => return Some((labels.join("."), at)),
            // A question has no compressed name.
            64.. => return None,
            _ => {
                let label = query.get(at..at + length)?;
                labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
                at += length;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut query = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(label.len() as u8);
            query.extend(label.bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        query
    }

    #[test]
    fn addresses_of_names_that_are_known() -> Result<()> {
        let records = records("orders.shop.svc.cluster.local=10.96.7.12\n other=10.0.0.1")?;
        let name = "Orders.shop.svc.cluster.local";
        let known = answer(&query(name, 1), &records).unwrap_or_default();
        assert_eq!((&known[..4], known[7]), (&[7, 9, 0x85, 0x80][..], 1));
        assert_eq!(known[known.len() - 4..], [10, 96, 7, 12]);
        // There is no IPv6 address, but the name exists.
        let other = answer(&query(name, 28), &records).unwrap_or_default();
        assert_eq!((other[3], other[7]), (0x80, 0));
        let unknown = answer(&query("orders", 1), &records).unwrap_or_default();
        assert_eq!(unknown[3] & 0xf, NXDOMAIN);
        for wrong in [&[][..], &[0; 11], &[0, 0, 0x81, 0, 0, 1, 0, 0, 0, 0, 0, 0], &query(name, 1)[..20]] {
            assert_eq!(answer(wrong, &records), None);
        }
        assert!(self::records("a=b").is_err());
        Ok(())
    }
}
