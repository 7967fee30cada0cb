//! A question to a name server over UDP, and whether it has an answer (RFC 1035 §4).

use crate::{Failure, check::DnsCheck};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;

const HEADER: usize = 12;
const REPLY_MAX: usize = 4_096;
const CLASS_IN: [u8; 2] = [0, 1];

pub(super) async fn ask(server: SocketAddr, check: &DnsCheck) -> Result<(), Failure> {
    let local: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(local).await.map_err(|_| Failure::Connect)?;
    socket.connect(server).await.map_err(|_| Failure::Connect)?;
    let id = fastrand::u16(..).to_be_bytes();
    // No flags, one question.
    let header = [id[0], id[1], 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let question = [&check.name[..], &check.of_type.to_be_bytes(), &CLASS_IN].concat();
    socket.send(&[&header[..], &question].concat()).await.map_err(|_| Failure::Connect)?;
    let mut reply = vec![0; REPLY_MAX];
    loop {
        let length = socket.recv(&mut reply).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => Failure::Refused,
            _ => Failure::Connect,
        })?;
        // What was not asked for is not heard (RFC 5452 §9).
        if let Some(outcome) = reply.get(..length).and_then(|reply| judge(reply, id, &question)) {
            return outcome;
        }
    }
}

/// `None`: it is no reply to our question.
fn judge(reply: &[u8], id: [u8; 2], question: &[u8]) -> Option<Result<(), Failure>> {
    let head: &[u8; HEADER] = reply.first_chunk()?;
    let [high, low, flags, code, _, _, answers_high, answers_low, ..] = *head;
    let asked = reply.get(HEADER..HEADER + question.len())?;
    if [high, low] != id || flags & 0x80 == 0 || !asked.eq_ignore_ascii_case(question) {
        return None;
    }
    match code & 0x0f {
        0 if answers_high | answers_low != 0 => Some(Ok(())),
        0 => Some(Err(Failure::NoAnswer)),
        code => Some(Err(Failure::Rcode(code))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_our_question_is_a_good_one_and_others_are_not_heard() {
        let question = b"\x03www\x04test\x00\x00\x01\x00\x01";
        let reply = |id: u8, flags: u8, code: u8, answers: u8, question: &[u8]| {
            [&[0, id, flags, code, 0, 1, 0, answers, 0, 0, 0, 0][..], question].concat()
        };
        for (reply, expected) in [
            (reply(7, 0x84, 0, 1, question), Some(Ok(()))),
            (reply(7, 0x84, 0, 1, b"\x03WWW\x04test\x00\x00\x01\x00\x01"), Some(Ok(()))),
            (reply(7, 0x84, 0, 0, question), Some(Err(Failure::NoAnswer))),
            (reply(7, 0x84, 5, 0, question), Some(Err(Failure::Rcode(5)))),
            (reply(8, 0x84, 0, 1, question), None),
            (reply(7, 0x04, 0, 1, question), None),
            (reply(7, 0x84, 0, 1, b"\x03ftp\x04test\x00\x00\x01\x00\x01"), None),
            (vec![0, 7, 0x84], None),
        ] {
            assert_eq!(judge(&reply, [0, 7], question), expected, "{reply:?}");
        }
    }
}
