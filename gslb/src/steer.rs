//! Steering: which addresses of a published service a client is given. Decided by a pure function of the client's place,
//! the state of the members, and a draw; `explain` calls the same one.

mod area;
mod continents;
mod evidence;
mod explain;
mod health;
mod maintenance;
mod needs;
mod order;
mod pick;
mod place;
mod service;
mod services;
mod spec;
mod status;
mod terms;
mod view;
mod words;

pub use area::Area;
pub use explain::{Explanation, WhatIf};
pub(crate) use health::Recalled;
pub(crate) use maintenance::Maintenance;
pub use maintenance::MaintenanceSpec;
pub(crate) use needs::Lack;
pub use order::{Forced, Order, OrderError, Ordered, Stamp, Standing};
pub(crate) use pick::{Client, Family, Outcome};
pub(crate) use place::{PlaceMap, Places};
pub(crate) use service::Service;
pub use service::{Endpoints, Registries};
pub(crate) use services::{CheckTarget, Round, Served, Services};
pub use services::{Clocks, ToldMember};
pub use spec::{
    AllDownSpec, Balance, BindingSpec, GeoDatabaseSpec, GeoSpec, Initial, MemberSpec, Policies, Policy,
    PublicServiceSpec, SiteSpec, SitesSpec, Spread,
};
pub use status::{MemberStatus, SiteStatus, Votes};
pub(crate) use terms::Terms;
pub(crate) use view::Mood;
