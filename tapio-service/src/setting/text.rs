//! Text values: names, paths and addresses.

use std::{
    fmt::{self, Display},
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{Form, Value, Wrong, value::not};

crate::choices! {
    /// Yes or no.
    pub enum Switch {
        /// Yes.
        True = "true",
        /// No.
        False = "false",
    }
}

/// A value that can be turned off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Off<T>(pub Option<T>);

impl<T: Value> Value for Off<T> {
    fn expected() -> String {
        format!("{}, or off", T::expected())
    }

    fn form() -> Form {
        T::form().or("off")
    }
}

impl<T: Value> FromStr for Off<T> {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|value| Self(Some(value))).map_err(|Wrong(why)| Wrong(why + ", or off"))
    }
}

impl<T: Display> Display for Off<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl Off<AbsolutePath> {
    /// The path of a file, if one is given.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        self.0.as_ref().map(|path| path.0.clone())
    }
}

/// A value that defaults to that of another setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Same<T>(pub Option<T>);

impl<T: Value> Value for Same<T> {
    fn expected() -> String {
        format!("{}, or same", T::expected())
    }

    fn form() -> Form {
        T::form().or("same")
    }
}

impl<T: Value> FromStr for Same<T> {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        if text == "same" {
            return Ok(Self(None));
        }
        text.parse().map(|value| Self(Some(value))).map_err(|Wrong(why)| Wrong(why + ", or same"))
    }
}

impl<T: Display> Display for Same<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("same"),
        }
    }
}

/// A name that every occurrence carries; may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// The length limit in bytes, which is that of a DNS name.
    const MAX_BYTES: usize = 253;

    /// The name, unless it is empty.
    #[must_use]
    pub fn get(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|name| !name.is_empty())
    }
}

impl Value for Name {
    fn expected() -> String {
        format!(
            "a name of at most {} bytes without spaces or control characters, or \"\" for none",
            Self::MAX_BYTES
        )
    }

    fn form() -> Form {
        Form::Text(format!(r"[^\s]{{0,{}}}", Self::MAX_BYTES))
    }
}

impl FromStr for Name {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let fits =
            text.len() <= Self::MAX_BYTES && !text.contains(|c: char| c.is_whitespace() || c.is_control());
        if fits { Ok(Self(text.to_owned())) } else { Err(not::<Self>(text)) }
    }
}

impl Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbsolutePath(PathBuf);

impl AbsolutePath {
    /// A path given as a constant in the code.
    #[must_use]
    pub fn known(path: &'static str) -> Self {
        Self(PathBuf::from(path))
    }

    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl Value for AbsolutePath {
    fn expected() -> String {
        "a path that begins with /".to_owned()
    }

    fn form() -> Form {
        Form::Text("/.*".to_owned())
    }
}

impl FromStr for AbsolutePath {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        if text.starts_with('/') && !text.contains('\0') {
            Ok(Self(PathBuf::from(text)))
        } else {
            Err(not::<Self>(text))
        }
    }
}

impl Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl Value for Listen {
    fn expected() -> String {
        "ADDRESS:PORT such as 127.0.0.1:9090 or [::]:9090".to_owned()
    }

    fn form() -> Form {
        Form::Text(r"[^\s]+:[0-9]{1,5}".to_owned())
    }
}

impl FromStr for Listen {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        text.parse().map(Self).map_err(|_| not::<Self>(text))
    }
}

impl Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_is_a_value() {
        assert_eq!("off".parse::<Off<Listen>>(), Ok(Off(None)));
        assert_eq!(Off::<Listen>(None).to_string(), "off");
        assert_eq!("[::]:1".parse::<Off<Listen>>().unwrap().to_string(), "[::]:1");
        let Wrong(why) = ":9090".parse::<Off<Listen>>().unwrap_err();
        assert_eq!(why, "`:9090` is not ADDRESS:PORT such as 127.0.0.1:9090 or [::]:9090, or off");
    }

    #[test]
    fn same_is_a_value() {
        assert_eq!("same".parse::<Same<Listen>>(), Ok(Same(None)));
        assert_eq!(Same::<Listen>(None).to_string(), "same");
        assert_eq!("[::]:1".parse::<Same<Listen>>().unwrap().to_string(), "[::]:1");
        let Wrong(why) = ":9090".parse::<Same<Listen>>().unwrap_err();
        assert_eq!(why, "`:9090` is not ADDRESS:PORT such as 127.0.0.1:9090 or [::]:9090, or same");
    }

    #[test]
    fn names_and_paths() {
        assert_eq!(
            "arn:aws:eks:eu-north-1:1:cluster/x".parse::<Name>().unwrap().get(),
            Some("arn:aws:eks:eu-north-1:1:cluster/x")
        );
        assert_eq!("".parse::<Name>().unwrap().get(), None);
        assert!("a b".parse::<Name>().is_err());
        assert!("a\u{7}".parse::<Name>().is_err());
        assert!("x".repeat(254).parse::<Name>().is_err());
        assert!("/var/lib/tapio".parse::<AbsolutePath>().is_ok());
        assert!("var/lib".parse::<AbsolutePath>().is_err());
        assert!("/a\0b".parse::<AbsolutePath>().is_err());
    }
}
