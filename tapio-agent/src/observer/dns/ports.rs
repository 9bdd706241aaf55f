//! The setting for the ports of resolvers.

use std::{fmt, str::FromStr};

use tapio_common::dns::MAX_PORTS;
use tapio_service::setting::{Form, Value, Wrong, shown};

/// One to four ports: `53`, or `53,1053`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports([u16; MAX_PORTS]);

impl Ports {
    /// In network order, zeros after the last.
    pub(super) fn kernel(self) -> [u16; MAX_PORTS] {
        self.0.map(u16::to_be)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut ports = [0; MAX_PORTS];
        for (at, port) in text.split(',').enumerate() {
            let port = port.trim().parse().ok().filter(|port| *port != 0)?;
            if ports.contains(&port) {
                return None;
            }
            *ports.get_mut(at)? = port;
        }
        Some(Self(ports))
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self([53, 0, 0, 0])
    }
}

impl Value for Ports {
    fn expected() -> String {
        format!("up to {MAX_PORTS} different ports, with commas between them")
    }

    fn form() -> Form {
        Form::Any
    }
}

impl FromStr for Ports {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        Self::parse(text).ok_or_else(|| Wrong(format!("`{}` is not {}", shown(text), Self::expected())))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports: Vec<_> = self.0.iter().filter(|port| **port != 0).map(u16::to_string).collect();
        f.write_str(&ports.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_or_a_few() {
        for text in ["53", "53,1053,5353"] {
            assert_eq!(text.parse::<Ports>().unwrap().to_string(), text);
        }
        assert_eq!("53, 1053".parse::<Ports>().unwrap().kernel(), [53_u16.to_be(), 1053_u16.to_be(), 0, 0]);
        for wrong in ["", "0", "53,53", "65536", "1,2,3,4,5", "dns"] {
            let error = wrong.parse::<Ports>().unwrap_err().to_string();
            assert_eq!(error, format!("`{wrong}` is not up to 4 different ports, with commas between them"));
        }
    }
}
