//! Requests on one key, read and answered.

use super::*;
use crate::types::Revision;

fn row(content_type: Option<&str>, value: &'static [u8]) -> RowValue {
    RowValue { revision: Revision(1), content_type: content_type.map(str::to_string), value: Bytes::from_static(value) }
}

fn header<'r>(response: &'r Response, name: &str) -> Option<&'r [u8]> {
    response.headers().get(name).map(HeaderValue::as_bytes)
}

#[test]
fn a_key_has_1_to_2048_bytes() {
    assert_eq!(check_key(b"").unwrap_err().code, Code::BadKey);
    assert!(check_key(&[0]).is_ok() && check_key(&[0xff; 2048]).is_ok());
    assert_eq!(check_key(&[0xff; 2049]).unwrap_err().code, Code::UriTooLong);
}

#[test]
fn a_stored_value_cannot_run_as_a_page_of_this_origin() {
    for content_type in [None, Some("text/plain"), Some("text/html; charset=utf-8"), Some("image/svg+xml")] {
        let response = as_stored(row(content_type, b"<script>"));
        assert_eq!(header(&response, "x-content-type-options"), Some(&b"nosniff"[..]));
        assert_eq!(header(&response, "content-security-policy"), Some(&b"sandbox; default-src 'none'"[..]));
        assert_eq!(
            header(&response, "content-type"),
            Some(content_type.unwrap_or("application/octet-stream").as_bytes())
        );
        let is_page = content_type.is_some_and(|content_type| content_type.contains("ml"));
        assert_eq!(header(&response, "content-disposition"), is_page.then_some(&b"attachment"[..]), "{content_type:?}");
    }
}

#[test]
fn a_content_type_that_is_no_ascii_comes_back_as_it_went() {
    let response = as_stored(row(Some("text/plain; name=é"), b""));
    assert_eq!(header(&response, "content-type"), Some("text/plain; name=é".as_bytes()));
}

#[test]
fn only_a_stale_read_has_an_age() {
    let headers = |served, staleness| read_headers(served, staleness, NodeId(3));
    let fresh = headers(Consistency::Lease, Some(Duration::from_millis(7)));
    assert_eq!((&fresh["kv-consistency"], &fresh["kv-served-by"]), (&"lease".parse().unwrap(), &"3".parse().unwrap()));
    assert!(!fresh.contains_key("kv-staleness-ms"));
    assert_eq!(headers(Consistency::Stale, Some(Duration::from_millis(7)))["kv-staleness-ms"], "7");
    assert_eq!(
        headers(Consistency::Stale, Some(Duration::from_micros(7001)))["kv-staleness-ms"],
        "8",
        "never too young"
    );
    assert_eq!(headers(Consistency::Stale, None)["kv-staleness-ms"], "unknown");
}

#[test]
fn consistencies_that_are_not_offered_are_refused_with_those_that_are() {
    let parse = |raw: &str| consistency(&Query::parse(Some(raw), &["consistency"]).unwrap());
    assert_eq!(parse("").unwrap(), Consistency::Linearizable);
    for offered in [Consistency::Linearizable, Consistency::Lease, Consistency::Stale] {
        assert_eq!(parse(&format!("consistency={}", consistency_name(offered))).unwrap(), offered);
    }
    for bad in ["consistency=bounded", "consistency=", "consistency=Stale", "consistency=%FF", "consistency=stale%20"] {
        assert_eq!(parse(bad).unwrap_err().code, Code::BadParameter, "{bad}");
    }
}

#[test]
fn every_refusal_of_apply_has_its_code() {
    let code = |response| refusal(response, ShardId(1)).code;
    let mismatch = |replayed| machine::Response::PreconditionFailed { current: Some(Revision(2)), replayed };
    assert_eq!(code(mismatch(false)), Code::RevisionMismatch);
    assert_eq!(code(machine::Response::IdempotencyKeyReuse), Code::IdempotencyKeyReuse);
    assert_eq!(code(machine::Response::IdempotencyTableFull), Code::Overloaded);
    assert_eq!(code(machine::Response::Misdirected), Code::Internal);
    let replay = refusal(mismatch(true), ShardId(1)).into_response();
    assert_eq!(header(&replay, "kv-replayed"), Some(&b"true"[..]));
    assert_eq!(header(&refusal(mismatch(false), ShardId(1)).into_response(), "kv-replayed"), None);
}
