//! Gets an `HttpProxy` with a custom connector out of pingora, which builds one only inside a `Service`.

use pingora::{
    connectors::http::custom::Connector,
    proxy::{HttpProxy, ProxyHttp},
    services::listening::Service,
};

/// Takes the proxy out of a service that was built for nothing else.
///
/// `HttpProxy::new_custom` is private in pingora 0.9 and `Service` only lends its application. The alternatives are a
/// fork, or to start the service on a socket of its own just to be handed an `Arc` through a callback.
#[allow(unsafe_code)]
pub(super) fn http_proxy<SV, C>(service: Service<HttpProxy<SV, C>>) -> HttpProxy<SV, C>
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync,
    C: Connector,
{
    let proxy: *const HttpProxy<SV, C> =
        service.app_logic().expect("a service that was just built holds its application");
    // SAFETY: `proxy` points to a valid, aligned value owned by `service`. The value is moved out exactly once, and
    // `service` is forgotten on the next line, so nobody drops or sees the original again. What else `service` owns
    // (a name, an empty listener list) is leaked: some hundred octets per core and process life.
    let taken = unsafe { std::ptr::read(proxy) };
    std::mem::forget(service);
    taken
}
