//! Raw queries.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::{
    Ask, Transport,
    message::{A, Answer, query},
    server::{connected, unconnected, with_length},
};

/// The most queries of a flood that are unanswered at a time.
const MOST_UNANSWERED: u32 = 128;
/// A flood ends when nothing was answered for this time.
const SILENCE: Duration = Duration::from_secs(2);

enum Socket {
    Connected(UdpSocket),
    Unconnected(UdpSocket, SocketAddr),
    Tcp(TcpStream),
}

impl Socket {
    fn open(to: SocketAddr, how: Ask) -> io::Result<Self> {
        Ok(match how.over {
            Transport::Udp => Self::Connected(connected(to)?),
            Transport::Unconnected => Self::Unconnected(unconnected(to)?, to),
            Transport::Tcp => Self::Tcp(TcpStream::connect_timeout(&to, how.timeout)?),
        })
    }

    fn send(&self, query: &[u8]) -> io::Result<()> {
        match self {
            Self::Connected(socket) => socket.send(query).map(drop),
            Self::Unconnected(socket, to) => socket.send_to(query, to).map(drop),
            Self::Tcp(stream) => (&*stream).write_all(&with_length(query)),
        }
    }

    fn receive(&self, within: Duration) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 4096];
        let length = match self {
            Self::Connected(socket) | Self::Unconnected(socket, _) => {
                socket.set_read_timeout(Some(within))?;
                socket.recv(&mut buffer)?
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(within))?;
                let mut length = [0; 2];
                (&*stream).read_exact(&mut length)?;
                let length = u16::from_be_bytes(length).into();
                buffer.resize(length, 0);
                (&*stream).read_exact(&mut buffer)?;
                length
            }
        };
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// Asks with the same id from the same socket until there is an answer.
pub(super) fn ask(server: SocketAddr, name: &str, kind: u16, how: Ask) -> io::Result<Answer> {
    let timeout = || io::Error::other("TIMEOUT");
    let id = fastrand::u16(..);
    let query = query(id, name, kind);
    let socket = Socket::open(server, how).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => timeout(),
        _ => error,
    })?;
    for _ in 0..how.tries {
        socket.send(&query)?;
        let end = Instant::now() + how.timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match socket.receive(left) {
                Ok(bytes) => {
                    if let Some(answer) = Answer::to(id, &bytes) {
                        return Ok(answer);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
    Err(timeout())
}

/// Returns how many were answered.
pub(super) fn flood(server: SocketAddr, name: &str, count: u32, per_second: u32) -> io::Result<u32> {
    let socket = connected(server)?;
    // Only root may exceed the limit.
    let _ = set_socket_recv_buffer_size_force(&socket, 1 << 20);
    socket.set_read_timeout(Some(Duration::from_millis(1)))?;
    let start = Instant::now();
    let (mut sent, mut answered, mut last) = (0_u32, 0_u32, start);
    let mut buffer = [0; 4096];
    while answered < count && last.elapsed() < SILENCE {
        let due = start.elapsed().as_micros() * u128::from(per_second) / 1_000_000;
        let due = due.min(count.into()) as u32;
        while sent < due && sent - answered < MOST_UNANSWERED {
            // Any 128 successive ids differ.
            socket.send(&query(sent as u16, name, A))?;
            sent += 1;
        }
        match socket.recv(&mut buffer) {
            Ok(_) => (answered, last) = (answered + 1, Instant::now()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answered)
}
