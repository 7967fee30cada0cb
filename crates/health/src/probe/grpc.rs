//! `grpc.health.v1.Health/Check`: one message each way, small enough to be written and read by hand.

use super::http2;
use crate::{Failure, check::GrpcCheck};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, header, uri::PathAndQuery};
use tokio::io::{AsyncRead, AsyncWrite};

/// Of the answer's body. A HealthCheckResponse has two bytes behind its prefix of five; unknown fields may follow.
const ANSWER_BYTES_MAX: usize = 4 << 10;
/// ServingStatus.SERVING
const SERVING: u64 = 1;

pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    check: &GrpcCheck,
    host: &str,
) -> Result<(), Failure> {
    let mut request = http2::request(&PathAndQuery::from_static("/grpc.health.v1.Health/Check"), host)?;
    *request.method_mut() = Method::POST;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    http2::exchange(stream, request, Some(question(&check.service)), async |answer| {
        if answer.status() != http::StatusCode::OK {
            return Err(Failure::Status(answer.status().as_u16()));
        }
        // An answer without a body has its status in the head ("Trailers-Only").
        if let Some(status) = status(answer.headers())? {
            return Err(if status == 0 { Failure::Protocol } else { Failure::Grpc(status) });
        }
        // One byte more than is taken, so that too much is seen.
        let body = http2::beginning(answer.body_mut(), ANSWER_BYTES_MAX + 1).await?;
        if body.len() > ANSWER_BYTES_MAX {
            return Err(Failure::Protocol);
        }
        match status(&http2::trailers(answer.body_mut()).await?)? {
            Some(0) => {}
            Some(status) => return Err(Failure::Grpc(status)),
            None => return Err(Failure::Protocol),
        }
        match serving_status(&body) {
            Some(SERVING) => Ok(()),
            Some(_) => Err(Failure::NotServing),
            None => Err(Failure::Protocol),
        }
    })
    .await
}

/// A HealthCheckRequest behind gRPC's prefix: not compressed, and its length.
fn question(service: &str) -> Bytes {
    // The name's length is at most 127 by the spec: one octet of varint.
    let length = u8::try_from(service.len()).unwrap_or(0);
    let mut message = BytesMut::new();
    message.put_u8(0);
    if length == 0 {
        message.put_u32(0);
        return message.freeze();
    }
    message.put_u32(u32::from(length).saturating_add(2));
    // Field 1, length-delimited: `string service = 1`.
    message.put_slice(&[0x0a, length]);
    message.put_slice(service.as_bytes());
    message.freeze()
}

fn status(headers: &HeaderMap) -> Result<Option<u16>, Failure> {
    let Some(value) = headers.get("grpc-status") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or(Failure::Protocol)
}

/// Field 1 of the one message; proto3 leaves out zero, UNKNOWN. `None` is what is no HealthCheckResponse.
fn serving_status(body: &[u8]) -> Option<u64> {
    let (&[compressed, a, b, c, d], mut message) = body.split_first_chunk::<5>()?;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    // We offer no compression, so none may be used.
    if compressed != 0 || message.len() != length {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let (key, rest) = varint(message)?;
        message = match key & 7 {
            0 => {
                let (value, rest) = varint(rest)?;
                if key >> 3 == 1 {
                    status = value;
                }
                rest
            }
            1 => rest.get(8..)?,
            2 => {
                let (length, rest) = varint(rest)?;
                rest.get(usize::try_from(length).ok()?..)?
            }
            5 => rest.get(4..)?,
            _ => return None,
        };
    }
    Some(status)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    const OCTETS_MAX: usize = 10;
    let mut value = 0_u64;
    for (index, octet) in bytes.iter().take(OCTETS_MAX).enumerate() {
        let shift = u32::try_from(index).ok()?.checked_mul(7)?;
        value |= u64::from(octet & 0x7f).checked_shl(shift)?;
        if octet & 0x80 == 0 {
            return Some((value, bytes.get(index.checked_add(1)?..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_gprcs_prefix_and_one_field() {
        assert_eq!(question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(question("a.B")[..], *b"\x00\x00\x00\x00\x05\x0a\x03a.B");
    }

    #[test]
    fn the_answer_is_read_and_what_is_none_refused() {
        for (body, expected) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], Some(1)),
            (b"\0\0\0\0\x02\x08\x02", Some(2)),
            (b"\0\0\0\0\x00", Some(0)),
            // Fields from a later version around it.
            (b"\0\0\0\0\x16\x12\x02ab\x08\x01\x19\0\0\0\0\0\0\0\0\x25\0\0\0\0\x30\x80\x01", None),
            (b"\0\0\0\0\x17\x12\x02ab\x08\x01\x19\0\0\0\0\0\0\0\0\x25\0\0\0\0\x30\x80\x01", Some(1)),
            (b"", None),
            (b"\0\0\0\0", None),
            (b"\x01\0\0\0\x02\x08\x01", None),
            (b"\0\0\0\0\x03\x08\x01", None),
            (b"\0\0\0\0\x01\x08", None),
            (b"\0\0\0\0\x02\x0b\x01", None),
            (b"\0\0\0\0\x03\x12\x09a", None),
            (b"\0\0\0\0\x0c\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", None),
        ] {
            assert_eq!(serving_status(body), expected, "{body:?}");
        }
    }
}
