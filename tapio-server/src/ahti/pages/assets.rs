//! The style and the script. Their names have a hash of what is in them, so that browsers keep them.

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

/// A file that is part of the program.
pub(super) struct Asset {
    pub(super) text: &'static str,
    kind: &'static str,
    hash: u64,
    end: &'static str,
}

pub(super) const STYLE: Asset = Asset::new(include_str!("../../../templates/pages.css"), "text/css", "css");
pub(super) const SCRIPT: Asset =
    Asset::new(include_str!("../../../templates/pages.js"), "text/javascript", "js");
pub(super) const ICON: Asset =
    Asset::new(include_str!("../../../templates/icon.svg"), "image/svg+xml", "svg");

impl Asset {
    const fn new(text: &'static str, kind: &'static str, end: &'static str) -> Self {
        Self { text, kind, hash: hash(text.as_bytes()), end }
    }

    fn name(&self) -> String {
        format!("{:016x}.{}", self.hash, self.end)
    }

    pub(super) fn path(&self) -> String {
        format!("/assets/{}", self.name())
    }
}

/// FNV-1a, 64 bits.
const fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

pub(super) async fn asset(Path(name): Path<String>) -> Response {
    match [STYLE, SCRIPT, ICON].into_iter().find(|asset| asset.name() == name) {
        Some(asset) => {
            let headers = [
                (header::CONTENT_TYPE, format!("{}; charset=utf-8", asset.kind)),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable".to_owned()),
            ];
            (headers, asset.text).into_response()
        }
        // Of an earlier version of the server: the page has to be loaded again.
        None => (StatusCode::NOT_FOUND, "there is no such file: load the page again\n").into_response(),
    }
}
