//! A certificate authority for trying things out: made on the spot, trusted by nobody but who is told to.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use std::{
    fs,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};
use time::{Duration, OffsetDateTime};

/// Writes `ca.crt`, and `NAME.crt` with `NAME.key` for `names`, into `folder`. The authority's key is forgotten at once:
/// nobody can sign anything else with it.
pub(crate) fn issue(folder: &Path, name: &str, names: &[String]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "Portcullis trial CA");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut authority, 30);
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = names.iter().map(|name| subject(name)).collect::<Result<_>>()?;
    leaf.distinguished_name.push(DnType::CommonName, name);
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    valid_for(&mut leaf, 30);
    let key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&key, &issuer)?;

    write(&folder.join("ca.crt"), &authority_certificate.pem(), 0o644)?;
    write(&folder.join(format!("{name}.crt")), &certificate.pem(), 0o644)?;
    write(&folder.join(format!("{name}.key")), &key.serialize_pem(), 0o600)
}

fn subject(name: &str) -> Result<SanType> {
    Ok(match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into().with_context(|| format!("`{name}` is not a DNS name or address"))?),
    })
}

fn valid_for(params: &mut CertificateParams, days: i64) {
    // An hour back: clocks differ.
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    use std::io::Write;
    let failed = || format!("cannot write {}", path.display());
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path).with_context(failed)?;
    file.set_permissions(fs::Permissions::from_mode(mode)).with_context(failed)?;
    file.write_all(text.as_bytes()).with_context(failed)
}
