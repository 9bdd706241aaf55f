//! The server side; see [`Process::serve_dns`](super::Process::serve_dns).

use std::{
    collections::HashSet,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use super::{Transport, message::Query};

/// Response codes by the label that asks for them.
const RCODES: [(&str, u8); 6] =
    [("nodata", 0), ("formerr", 1), ("servfail", 2), ("nx", 3), ("notimp", 4), ("refused", 5)];
const NXDOMAIN: u8 = 3;
/// Time for which a forwarder waits for its upstream.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
enum Mode {
    /// As the name says, this much later.
    ByName(Duration),
    /// Nothing for this time, once; the questions wait. Then normal.
    Stall(Duration),
    Drop,
    Error(u8),
}

static MODE: Mutex<Mode> = Mutex::new(Mode::ByName(Duration::ZERO));

pub(super) fn set_mode(mode: &str, delay: Duration) -> io::Result<()> {
    let mode = match mode {
        "normal" | "delay" => Mode::ByName(delay),
        "stall" => Mode::Stall(delay),
        "drop" => Mode::Drop,
        "servfail" => Mode::Error(2),
        "nx" => Mode::Error(NXDOMAIN),
        other => return Err(io::Error::other(format!("no such mode: {other}"))),
    };
    *MODE.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    Ok(())
}

/// The questions whose first query was dropped.
type Dropped = Arc<Mutex<HashSet<(String, u16)>>>;

/// Serves in the background, and returns the port.
pub(super) fn serve(address: SocketAddr) -> io::Result<u16> {
    let (udp, tcp) = bind(address)?;
    let port = udp.local_addr()?.port();
    let dropped = Dropped::default();
    let of_tcp = Arc::clone(&dropped);
    thread::spawn(move || serve_udp(&Arc::new(udp), &dropped));
    thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            let dropped = Arc::clone(&of_tcp);
            thread::spawn(move || serve_tcp(&Arc::new(stream), &dropped));
        }
    });
    Ok(port)
}

/// Binds the same port for both.
fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = 0;
    loop {
        let tcp = TcpListener::bind(address)?;
        match UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => return Ok((udp, tcp)),
            // Another process has the free port that TCP was given.
            Err(_) if address.port() == 0 && tries < 20 => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

fn serve_udp(socket: &Arc<UdpSocket>, dropped: &Dropped) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        let Some(query) = Query::parse(&buffer[..length]) else { continue };
        if let Some((delay, answer)) = plan(&query, Transport::Udp, dropped) {
            let socket = Arc::clone(socket);
            // The client may be gone.
            after(delay, move || drop(socket.send_to(&answer, peer)));
        }
    }
}

fn serve_tcp(stream: &Arc<TcpStream>, dropped: &Dropped) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        (&**stream).read_exact(&mut length)?;
        let mut buffer = vec![0; u16::from_be_bytes(length).into()];
        (&**stream).read_exact(&mut buffer)?;
        let Some(query) = Query::parse(&buffer) else { continue };
        if let Some((delay, answer)) = plan(&query, Transport::Tcp, dropped) {
            let stream = Arc::clone(stream);
            after(delay, move || drop((&*stream).write_all(&with_length(&answer))));
        }
    }
}

/// A message as it is sent over TCP.
pub(super) fn with_length(message: &[u8]) -> Vec<u8> {
    let length: u16 = message.len().try_into().expect("a message of at most 64 KiB");
    [&length.to_be_bytes(), message].concat()
}

fn after(delay: Duration, act: impl FnOnce() + Send + 'static) {
    if delay.is_zero() {
        return act();
    }
    thread::spawn(move || {
        thread::sleep(delay);
        act();
    });
}

/// What to answer and how much later, or none for no answer.
fn plan(query: &Query<'_>, over: Transport, dropped: &Dropped) -> Option<(Duration, Vec<u8>)> {
    let mut mode = MODE.lock().unwrap_or_else(PoisonError::into_inner);
    let delay = match *mode {
        Mode::ByName(delay) => delay,
        Mode::Stall(time) => {
            *mode = Mode::ByName(Duration::ZERO);
            drop(mode);
            thread::sleep(time);
            Duration::ZERO
        }
        Mode::Drop => return None,
        Mode::Error(rcode) => return Some((Duration::ZERO, query.answer(rcode, 0))),
    };
    let label = query.name.split('.').next().unwrap_or_default();
    let begins = |with: &str| label.starts_with(with);
    if let Some((_, rcode)) = RCODES.iter().find(|(name, _)| begins(name)) {
        return Some((delay, query.answer(*rcode, 0)));
    }
    let ok = query.answer(0, 1);
    let answer = if begins("ok") {
        ok
    } else if begins("drop1") {
        let mut dropped = dropped.lock().unwrap_or_else(PoisonError::into_inner);
        if dropped.insert((query.name.clone(), query.kind)) {
            return None;
        }
        ok
    } else if begins("drop") {
        return None;
    } else if let Some(rest) = label.strip_prefix("slow") {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        return Some((delay + Duration::from_millis(digits.parse().unwrap_or(0)), ok));
    } else if begins("trunc") && over == Transport::Udp {
        let mut answer = query.answer(0, 0);
        answer[2] |= 2;
        answer
    } else if begins("wrongid") {
        with_another_id(ok)
    } else if begins("garbage") {
        with_another_id(garbage(&ok))
    } else if begins("big") {
        query.answer(0, 40)
    } else if begins("case") {
        query.in_upper_case(ok)
    } else if begins("trunc") || query.name.ends_with(".ok.test") {
        ok
    } else {
        query.answer(NXDOMAIN, 0)
    };
    Some((delay, answer))
}

fn with_another_id(mut answer: Vec<u8>) -> Vec<u8> {
    answer[0] = !answer[0];
    answer
}

/// Random bytes that keep the id.
fn garbage(answer: &[u8]) -> Vec<u8> {
    let random = std::iter::repeat_with(|| fastrand::u8(..));
    answer[..2].iter().copied().chain(random.take(fastrand::usize(1..80))).collect()
}

/// Forwards in the background, and returns the port.
pub(super) fn forward(address: SocketAddr, upstream: SocketAddr) -> io::Result<u16> {
    let socket = Arc::new(UdpSocket::bind(address)?);
    let port = socket.local_addr()?.port();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
            let (query, socket) = (buffer[..length].to_vec(), Arc::clone(&socket));
            thread::spawn(move || {
                let answer = pass_on(query, upstream)?;
                socket.send_to(&answer, peer)
            });
        }
    });
    Ok(port)
}

fn pass_on(mut query: Vec<u8>, upstream: SocketAddr) -> io::Result<Vec<u8>> {
    let id: Vec<u8> = query.iter().take(2).copied().collect();
    if id.len() < 2 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let own = fastrand::u16(..).to_be_bytes();
    query[..2].copy_from_slice(&own);
    let socket = connected(upstream)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&query)?;
    let mut answer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut answer)?;
        if length >= 2 && answer[..2] == own {
            answer.truncate(length);
            answer[..2].copy_from_slice(&id);
            return Ok(answer);
        }
    }
}

/// A new UDP socket with a destination.
pub(super) fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = unconnected(to)?;
    socket.connect(to)?;
    Ok(socket)
}

/// A new UDP socket for a destination of this family.
pub(super) fn unconnected(to: SocketAddr) -> io::Result<UdpSocket> {
    match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }
}
