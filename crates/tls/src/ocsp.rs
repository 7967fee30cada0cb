//! Looks into an OCSP response that is to be stapled. Does not verify its signature: the client does.

use x509_parser::{
    der_parser::asn1_rs::{Any, Class},
    prelude::FromDer,
};

/// What a response says about one certificate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OcspAnswer {
    pub(crate) status: OcspStatus,
    /// Seconds since 1970; without it, newer information is always available (RFC 6960 §4.2.2.1).
    pub(crate) next_update: Option<i64>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OcspStatus {
    Good,
    Revoked,
    Unknown,
}

/// Why a response is of no use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OcspError {
    #[error("it is not an OCSP response in DER")]
    Unreadable,
    #[error("the responder answered with an error (status {0})")]
    Unsuccessful(u8),
    #[error("it says nothing about this certificate")]
    AnotherCertificate,
}

impl OcspAnswer {
    /// `serial`: the content octets of the leaf's serial number.
    pub(crate) fn read(der: &[u8], serial: &[u8]) -> Result<Self, OcspError> {
        let (status, mut basic) = unwrap_response(der).ok_or(OcspError::Unreadable)?;
        if status != 0 {
            return Err(OcspError::Unsuccessful(status));
        }
        // BasicOCSPResponse, then ResponseData: RFC 6960 §4.2.1.
        let responses = next(&mut basic).and_then(|data| single_responses(data.data)).ok_or(OcspError::Unreadable)?;
        let mut rest = responses;
        while !rest.is_empty() {
            let single = next(&mut rest).ok_or(OcspError::Unreadable)?;
            let (about, answer) = single_response(single.data).ok_or(OcspError::Unreadable)?;
            if about == serial {
                return Ok(answer);
            }
        }
        Err(OcspError::AnotherCertificate)
    }
}

fn next<'a>(input: &mut &'a [u8]) -> Option<Any<'a>> {
    let (rest, element) = Any::from_der(input).ok()?;
    *input = rest;
    Some(element)
}

fn is_context(element: &Any<'_>, tag: u32) -> bool {
    element.class() == Class::ContextSpecific && element.tag().0 == tag
}

/// The response's status and, when it is successful, the content of its BasicOCSPResponse.
fn unwrap_response(der: &[u8]) -> Option<(u8, &[u8])> {
    let mut outer = der;
    let mut response = next(&mut outer)?.data;
    let [status] = next(&mut response)?.data else { return None };
    if *status != 0 {
        return Some((*status, &[]));
    }
    let mut explicit = next(&mut response).filter(|element| is_context(element, 0))?.data;
    let mut bytes = next(&mut explicit)?.data;
    let _type = next(&mut bytes)?;
    let mut octets = next(&mut bytes)?.data;
    Some((0, next(&mut octets)?.data))
}

/// `SEQUENCE { [0] version?, responderID [1] or [2], producedAt, SEQUENCE OF SingleResponse, … }`
fn single_responses(mut data: &[u8]) -> Option<&[u8]> {
    let first = next(&mut data)?;
    if is_context(&first, 0) {
        next(&mut data)?;
    }
    let _produced_at = next(&mut data)?;
    Some(next(&mut data)?.data)
}

/// The serial number that it is about, and what it says.
fn single_response(mut single: &[u8]) -> Option<(&[u8], OcspAnswer)> {
    let mut id = next(&mut single)?.data;
    let (_algorithm, _name, _key) = (next(&mut id)?, next(&mut id)?, next(&mut id)?);
    let serial = next(&mut id)?.data;
    let status = match next(&mut single)?.tag().0 {
        0 => OcspStatus::Good,
        1 => OcspStatus::Revoked,
        2 => OcspStatus::Unknown,
        _ => return None,
    };
    let _this_update = next(&mut single)?;
    let next_update = match next(&mut single) {
        Some(element) if is_context(&element, 0) => {
            let mut explicit = element.data;
            let time = next(&mut explicit)?.generalizedtime().ok()?;
            Some(time.utc_datetime().ok()?.unix_timestamp())
        }
        _ => None,
    };
    Some((serial, OcspAnswer { status, next_update }))
}
