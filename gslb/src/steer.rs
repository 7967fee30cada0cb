//! Steering: which addresses of a published service a client is given. Decided by a pure function of the client's place,
//! the state of the members, and a draw; `explain` calls the same one.

mod area;
mod continents;
mod explain;
mod health;
mod order;
mod pick;
mod place;
mod service;
mod services;
mod spec;
mod view;

pub use area::Area;
pub use explain::{Explanation, WhatIf};
pub use order::{Forced, Order, OrderError, Ordered};
pub(crate) use pick::{Client, Family, Outcome};
pub(crate) use place::{PlaceMap, Places};
pub(crate) use service::Service;
pub use service::{Endpoints, Registries};
pub(crate) use services::{CheckTarget, Round, Services};
pub use services::{Clocks, MemberStatus, SiteStatus, ToldMember};
pub use spec::{
    AllDownSpec, Balance, GeoDatabaseSpec, GeoSpec, HttpsSpec, MemberSpec, Policies, Policy, PublicServiceSpec,
    SiteSpec, SitesSpec, Spread,
};
pub(crate) use view::Mood;
