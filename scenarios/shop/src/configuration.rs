//! A configuration file that has to have a certain value.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How often it is read. The kubelet takes up to two minutes to bring a changed ConfigMap.
const EVERY: Duration = Duration::from_secs(1);

/// Fails if the file's key has another value, or none.
pub(crate) fn check(file: &Path, (key, value): &(String, String)) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let found = text.lines().find_map(|line| line.split_once('=').filter(|(name, _)| name.trim() == key));
    match found {
        Some((_, found)) if found.trim() == value => Ok(()),
        Some((_, found)) => bail!("{}: {key} is `{}`, not `{value}`", file.display(), found.trim()),
        None => bail!("{}: there is no {key}", file.display()),
    }
}

/// Checks it again and again, and returns why it is wrong.
pub(crate) async fn watch(file: &Path, expected: &(String, String)) -> Result<()> {
    loop {
        tokio::time::sleep(EVERY).await;
        check(file, expected)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_expected_value_passes() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("shop.conf");
        let expected = ("database".to_owned(), "db".to_owned());
        assert!(check(&file, &expected).is_err());
        for (text, passes) in [("a=b\ndatabase = db\n", true), ("database=bd", false), ("other=db", false)] {
            fs::write(&file, text)?;
            assert_eq!(check(&file, &expected).is_ok(), passes, "{text}");
        }
        Ok(())
    }
}
