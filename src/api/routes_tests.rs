//! The one table of routes, and the OpenAPI document held to it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::*;

fn found(path: &str) -> Option<(&'static str, &str)> {
    Route::find(path).map(|(route, variable)| (route.path, variable))
}

#[test]
fn a_key_is_all_that_stands_after_its_route() {
    for key in ["a", "", "a/../b", "/", "//", ".", "..", "%2F", "%", "a/", "é"] {
        assert_eq!(found(&format!("/v1/kv/{key}")), Some(("/v1/kv/{key}", key)), "{key:?}");
    }
    assert_eq!(found("/v1/kv"), Some(("/v1/kv", "")));
}

#[test]
fn other_paths_are_matched_to_the_letter() {
    assert_eq!(found("/v1/admin/shards/7"), Some(("/v1/admin/shards/{id}", "7")));
    assert_eq!(found("/v1/admin/shards"), Some(("/v1/admin/shards", "")));
    for path in [
        "",
        "/",
        "/v1",
        "/v1/",
        "/v1/kvx",
        "//v1/kv/a",
        "/V1/kv/a",
        "/readyz/",
        "/v1/admin/shards/",
        "/v1/admin/shards/7/x",
        "/v1/admin/shards/7/",
        "*",
    ] {
        assert_eq!(found(path), None, "{path}");
    }
}

#[test]
fn another_method_is_refused_with_those_that_are_allowed() {
    let (route, _) = Route::find("/v1/kv/a").unwrap();
    assert!(route.operation(&Method::PUT).is_ok());
    for method in ["POST", "PATCH", "OPTIONS", "BREW", "get"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let response = route.operation(&method).err().unwrap().into_response();
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()[ALLOW], "GET, HEAD, PUT, DELETE");
    }
}

fn refused(raw: &str) -> (Code, String) {
    let problem = Query::parse(Some(raw), &["timeout", "forward"]).unwrap_err();
    (problem.code, format!("{problem:?}"))
}

#[test]
fn a_parameter_that_is_unknown_misspelt_or_repeated_is_refused_by_name() {
    for (raw, name) in
        [("tiemout=5s", "tiemout"), ("Timeout=5s", "Timeout"), ("timeout=1s&timeout=1s", "timeout"), ("=x", "")]
    {
        let (code, told) = refused(raw);
        assert_eq!(code, Code::BadParameter, "{raw}");
        assert!(told.contains(&format!("\"parameter\": String(\"{name}\")")), "{told}");
        assert!(told.contains("timeout, forward"), "{told}");
    }
}

#[test]
fn a_value_is_decoded_once_and_may_be_any_bytes() {
    let query = Query::parse(Some("&timeout=%2531%FF+&&%66orward"), &["timeout", "forward"]).unwrap();
    assert_eq!(query.get("timeout").unwrap().as_ref(), b"%31\xff ");
    assert_eq!(query.get("forward").unwrap().as_ref(), b"");
    assert!(query.text("timeout").is_err(), "not UTF-8");
    assert_eq!(refused("timeout=%").0, Code::BadEncoding);
    assert_eq!(refused("%zz=1").0, Code::BadEncoding);
    assert!(Query::parse(None, &[]).unwrap().values.is_empty());
}

/// Path → method → query parameters.
type Surface = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn documented() -> Surface {
    let document: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let resolve = |parameter: &Value| match parameter["$ref"].as_str() {
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).expect("a dangling $ref").clone(),
        None => parameter.clone(),
    };
    let operation = |operation: &Value| {
        let parameters: Vec<Value> = operation["parameters"].as_array().unwrap().iter().map(resolve).collect();
        let queries = parameters.iter().filter(|parameter| parameter["in"] == "query");
        queries.map(|parameter| parameter["name"].as_str().unwrap().to_string()).collect::<BTreeSet<_>>()
    };
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            (path.clone(), methods.map(|(method, told)| (method.to_uppercase(), operation(told))).collect())
        })
        .collect()
}

#[test]
fn the_openapi_document_has_exactly_these_routes_methods_and_parameters() {
    let served: Surface = ROUTES
        .iter()
        .map(|route| {
            let operations = route.operations.iter().map(|operation| {
                let parameters = operation.parameters.iter().map(|name| (*name).to_string()).collect();
                (operation.method.to_string(), parameters)
            });
            (route.path.to_string(), operations.collect())
        })
        .collect();
    assert_eq!(documented(), served);
}

#[test]
fn the_openapi_document_names_no_code_that_is_not_answered() {
    let document: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    let responses = document["components"]["responses"].to_string();
    let known: BTreeSet<&str> = Code::ALL.iter().map(|code| code.text()).collect();
    let quoted = responses.split('`').skip(1).step_by(2);
    let mentioned: BTreeSet<&str> = quoted.filter(|word| word.contains('-') && !word.contains([':', '='])).collect();
    assert!(mentioned.len() > 10 && mentioned.is_subset(&known), "{mentioned:?}");
}
