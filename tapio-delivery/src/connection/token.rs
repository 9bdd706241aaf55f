//! A bearer token from a file, read for each connection so that a renewed one is used.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use http::HeaderValue;

use super::Trouble;

/// Far more than any token has.
const MOST_BYTES: u64 = 64 << 10;

/// The value of the header `authorization` with the token in the first line of the file, if there is a file.
pub(super) fn header(file: Option<&Path>) -> Result<Option<HeaderValue>, Trouble> {
    let Some(file) = file else { return Ok(None) };
    let unusable = |why: &str| {
        let remedy = "it has to be a file with the token in its first line, which the agent may read";
        Trouble::new(format!("polku.token_file: {} cannot be used: {why}", file.display()), remedy)
    };
    let text = read(file).map_err(|error| unusable(&error.to_string()))?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() {
        return Err(unusable("there is no token in it"));
    }
    let value = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value = value.map_err(|_| unusable("its first line has characters that no token has"))?;
    // So that it is neither logged nor put into a compression table.
    value.set_sensitive(true);
    Ok(Some(value))
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_first_line_is_the_token() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        assert_eq!(header(None), Ok(None));
        let why = |file: &Path| header(Some(file)).unwrap_err().to_string();
        assert!(why(&file).contains("No such file"));
        fs::write(&file, " one-of-several\nanother\n").unwrap();
        let value = header(Some(&file)).unwrap().unwrap();
        assert_eq!((value.as_bytes(), value.is_sensitive()), (&b"Bearer one-of-several"[..], true));
        for (text, expected) in
            [("\nx", "there is no token in it"), ("a\u{7}b", "characters that no token has")]
        {
            fs::write(&file, text).unwrap();
            assert!(why(&file).contains(expected) && !why(&file).contains("a\u{7}b"), "{}", why(&file));
        }
    }
}
