//! How somebody wants the pages: light or dark, with or without keys. In cookies, since there are no accounts.

use axum::{
    Form,
    extract::rejection::FormRejection,
    http::{HeaderMap, StatusCode, header},
    response::{AppendHeaders, IntoResponse, Redirect, Response},
};
use serde::{Deserialize, Serialize};

/// Light or dark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Theme {
    /// As the device is set.
    #[default]
    System,
    Light,
    Dark,
}

impl Theme {
    pub(super) const ALL: [Self; 3] = [Self::System, Self::Light, Self::Dark];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

/// What somebody has chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ahti) struct Preferences {
    pub(super) theme: Theme,
    /// Whether single keys do something.
    pub(super) keys: bool,
}

const THEME: &str = "tapio-theme";
const KEYS: &str = "tapio-keys";
const YEAR_S: u32 = 31_536_000;

impl Preferences {
    pub(in crate::ahti) fn of(headers: &HeaderMap) -> Self {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs: Vec<_> =
            cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('=')).collect();
        let value = |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let theme = Theme::ALL.into_iter().find(|theme| value(THEME) == Some(theme.word()));
        Self { theme: theme.unwrap_or_default(), keys: value(KEYS) != Some("off") }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Chosen {
    theme: Theme,
    /// Absent if the box is not ticked.
    keys: Option<String>,
    /// The page to go back to.
    back: String,
}

pub(super) async fn set(chosen: Result<Form<Chosen>, FormRejection>) -> Response {
    let Form(Chosen { theme, keys, back }) = match chosen {
        Ok(chosen) => chosen,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{}\n", error.body_text())).into_response(),
    };
    let keys = if keys.is_some() { "on" } else { "off" };
    let cookie = |name, value| {
        (header::SET_COOKIE, format!("{name}={value}; Path=/; Max-Age={YEAR_S}; SameSite=Lax; HttpOnly"))
    };
    let cookies = AppendHeaders([cookie(THEME, theme.word()), cookie(KEYS, keys)]);
    (cookies, Redirect::to(own(&back))).into_response()
}

/// A page to go back to, if it is one of this server, and the first one if not.
pub(in crate::ahti) fn own(back: &str) -> &str {
    let is_own = back.starts_with('/') && !back.starts_with("//") && !back.contains(['\\', '\r', '\n']);
    if is_own { back } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent_back(back: &str) -> String {
        let chosen = Chosen { theme: Theme::Dark, keys: None, back: back.to_owned() };
        let response = set(Ok(Form(chosen))).await;
        assert_eq!(response.headers().get_all(header::SET_COOKIE).iter().count(), 2);
        response.headers()[header::LOCATION].to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn one_gets_back_to_the_page_and_nowhere_else() {
        assert_eq!(sent_back("/changes?kind=Node").await, "/changes?kind=Node");
        for elsewhere in ["https://example.org/", "//example.org", "/\\example.org", "", "/a\r\nb"] {
            assert_eq!(sent_back(elsewhere).await, "/", "{elsewhere}");
        }
    }

    #[test]
    fn cookies_of_others_change_nothing() {
        let mut headers = HeaderMap::new();
        let standard = Preferences { theme: Theme::System, keys: true };
        assert_eq!(Preferences::of(&headers), standard);
        headers.insert(header::COOKIE, "a=b; tapio-theme=pink; tapio-keys".parse().unwrap());
        assert_eq!(Preferences::of(&headers), standard);
        headers.append(header::COOKIE, "tapio-keys=off; tapio-theme=dark".parse().unwrap());
        // The first of a name counts.
        assert_eq!(Preferences::of(&headers), Preferences { theme: Theme::System, keys: false });
    }
}
