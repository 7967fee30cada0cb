//! Where addresses are: databases and lists compiled at load into sorted ranges of classes, so that a query costs one search
//! and knows the widest prefix for which its answer holds (RFC 7871 §7.2.1).

use super::{
    area::{Area, prefix_of},
    continents::continent_of,
    spec::{GeoDatabaseSpec, GeoSpec},
};
use maxminddb::{PathElement, Reader, WithinOptions};
use portcullis_config::{Context, Path};
use portcullis_names::Cidr;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::Read,
    net::IpAddr,
};

/// Index of a set of areas that some addresses share.
pub(crate) type ClassId = u16;

/// The areas that services name, and which addresses are in which.
#[derive(Debug, Default)]
pub(crate) struct PlaceMap {
    /// First address of each range, with its class; rising. The first range begins at zero.
    starts: Vec<u128>,
    classes: Vec<ClassId>,
    /// Of each class, its areas, rising; class 0 is nowhere.
    pub(crate) members: Vec<Vec<AreaId>>,
}

pub(crate) type AreaId = u16;

/// Areas that anything names, each with its number.
#[derive(Debug, Default)]
pub(crate) struct Places {
    ids: BTreeMap<Area, AreaId>,
}

/// A database of the world; City editions have some 60 MiB.
const DATABASE_MAX: u64 = 1 << 30;
const AREAS_MAX: usize = 10_000;
const CLASSES_MAX: usize = 60_000;

impl Places {
    pub(crate) fn id(&mut self, area: &Area) -> AreaId {
        let next = self.ids.len().min(AREAS_MAX) as AreaId;
        *self.ids.entry(area.clone()).or_insert(next)
    }

    pub(crate) fn get(&self, area: &Area) -> Option<AreaId> {
        self.ids.get(area).copied()
    }

    pub(crate) fn check(&self, cx: &mut Context) {
        if self.ids.len() >= AREAS_MAX {
            cx.error(&Path::root().key("public_service"), format!("more than {AREAS_MAX} areas are named"));
        }
    }
}

/// One edge of a range: where an area begins or ends.
type Edges = Vec<(u128, AreaId, Edge)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    End,
    Begin,
}

impl PlaceMap {
    pub(crate) fn compile(spec: Option<&GeoSpec>, places: &Places, cx: &mut Context) -> Self {
        let at = Path::root().key("dns").key("geo");
        let mut edges = Edges::new();
        for (area, id) in &places.ids {
            match area {
                Area::Net(cidr) => add(bounds(cidr), *id, &mut edges),
                Area::Nets(name) => {
                    let list = spec.and_then(|spec| spec.nets.get(name));
                    list.into_iter().flatten().for_each(|cidr| add(bounds(cidr), *id, &mut edges));
                }
                Area::Any | Area::Continent(_) | Area::Country(_) | Area::Subdivision(_) | Area::Asn(_) => {}
            }
        }
        for (index, database) in spec.map_or(&[][..], |spec| &spec.databases).iter().enumerate() {
            let at = at.key("databases").index(index);
            if let Err(message) = read_database(database, places, &at, cx, &mut edges) {
                cx.error(&at.key("file"), format!("{}: {message}", database.file.display()));
            }
        }
        let everywhere = places.ids.get(&Area::Any).copied();
        let map = Self::sweep(edges, everywhere);
        if map.members.len() > CLASSES_MAX {
            cx.error(&at, format!("the areas divide the world into more than {CLASSES_MAX} classes"));
        }
        map
    }

    /// From the edges of all areas to ranges of like addresses; equal neighbours are one.
    fn sweep(mut edges: Edges, everywhere: Option<AreaId>) -> Self {
        edges.sort_unstable();
        let mut open: BTreeMap<AreaId, u32> = everywhere.into_iter().map(|id| (id, 1)).collect();
        let mut known: HashMap<Vec<AreaId>, ClassId> = HashMap::new();
        let mut map = Self::default();
        let mut begin = |at: u128, open: &BTreeMap<AreaId, u32>, map: &mut Self| {
            let members: Vec<AreaId> = open.keys().copied().collect();
            let next = map.members.len().min(usize::from(ClassId::MAX)) as ClassId;
            let class = *known.entry(members.clone()).or_insert_with(|| {
                map.members.push(members);
                next
            });
            if map.starts.last() == Some(&at) {
                map.starts.pop();
                map.classes.pop();
            }
            if map.classes.last() != Some(&class) {
                map.starts.push(at);
                map.classes.push(class);
            }
        };
        begin(0, &open, &mut map);
        let mut edges = edges.into_iter().peekable();
        while let Some((at, area, edge)) = edges.next() {
            match edge {
                Edge::Begin => *open.entry(area).or_default() += 1,
                Edge::End => match open.get_mut(&area) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => _ = open.remove(&area),
                },
            }
            if edges.peek().is_none_or(|(next, ..)| *next != at) {
                begin(at, &open, &mut map);
            }
        }
        map
    }

    /// The class of an address, and the length of the widest prefix around it that is all of this class.
    pub(crate) fn find(&self, address: IpAddr) -> (ClassId, u8) {
        let number = number(address);
        let after = self.starts.partition_point(|start| *start <= number);
        let Some(at) = after.checked_sub(1) else { return (0, 0) };
        let class = self.classes.get(at).copied().unwrap_or(0);
        // The prefix must hold neither the last address of the range before nor the first of the range behind.
        let before = self.starts.get(at).and_then(|start| start.checked_sub(1));
        let behind = self.starts.get(after).copied();
        let apart = |other: Option<u128>| other.map_or(0, |other| (number ^ other).leading_zeros() + 1);
        let length = apart(before).max(apart(behind));
        let offset = if address.is_ipv4() { 96 } else { 0 };
        (class, length.saturating_sub(offset) as u8)
    }

    pub(crate) fn areas(&self, class: ClassId) -> &[AreaId] {
        self.members.get(usize::from(class)).map_or(&[], Vec::as_slice)
    }
}

/// IPv4 lies in IPv6 as v4-mapped, as everywhere in the house.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn range(network: IpAddr, prefix: u8) -> (u128, u128) {
    let length = u32::from(prefix) + if network.is_ipv4() { 96 } else { 0 };
    let first = number(network);
    (first, first | u128::MAX.checked_shr(length).unwrap_or(0))
}

fn bounds(cidr: &Cidr) -> (u128, u128) {
    let text = cidr.to_string();
    let network = text.split('/').next().and_then(|network| network.parse().ok());
    network.map_or((0, 0), |network| range(network, prefix_of(cidr)))
}

fn add((first, last): (u128, u128), area: AreaId, edges: &mut Edges) {
    edges.push((first, area, Edge::Begin));
    if let Some(behind) = last.checked_add(1) {
        edges.push((behind, area, Edge::End));
    }
}

/// The path of a value in a record: `country.iso_code`, `subdivisions.0.iso_code`.
fn path(text: &str) -> Vec<PathElement<'_>> {
    let element = |part: &'_ str| part.parse().map(PathElement::Index).ok();
    text.split('.').map(|part| element(part).unwrap_or(PathElement::Key(part))).collect()
}

fn read_database(
    spec: &GeoDatabaseSpec,
    places: &Places,
    at: &Path,
    cx: &mut Context,
    edges: &mut Edges,
) -> Result<(), String> {
    // Larger than what a context reads for everybody.
    let file = cx.resolve(at, &spec.file);
    cx.watch(file.clone());
    let mut octets = Vec::new();
    let opened = File::open(&file).and_then(|file| file.take(DATABASE_MAX + 1).read_to_end(&mut octets));
    opened.map_err(|error| error.to_string())?;
    if octets.len() as u64 > DATABASE_MAX {
        return Err(format!("larger than {} MiB", DATABASE_MAX >> 20));
    }
    let reader = Reader::from_source(octets).map_err(|error| error.to_string())?;
    let paths = Paths::new(spec);
    let mut known: HashMap<Option<usize>, Vec<AreaId>> = HashMap::new();
    for network in reader.networks(WithinOptions::default()).map_err(|error| error.to_string())? {
        let network = network.map_err(|error| error.to_string())?;
        // Records are shared by many networks: each is read once.
        let areas = match known.get(&network.offset()) {
            Some(areas) => areas.clone(),
            None => {
                let areas = paths.areas(&network, places)?;
                known.insert(network.offset(), areas.clone());
                areas
            }
        };
        let prefix = network.network().map_err(|error| error.to_string())?;
        areas.into_iter().for_each(|area| add(range(prefix.ip(), prefix.prefix()), area, edges));
    }
    Ok(())
}

/// Where the records of a database have what.
struct Paths<'s> {
    country: Vec<Vec<PathElement<'s>>>,
    continent: Vec<Vec<PathElement<'s>>>,
    subdivision: Vec<Vec<PathElement<'s>>>,
    asn: Vec<Vec<PathElement<'s>>>,
}

impl<'s> Paths<'s> {
    fn new(spec: &'s GeoDatabaseSpec) -> Self {
        // MaxMind's way, and the flat way of smaller databases.
        let or = |given: &'s Option<String>, defaults: &[&'s str]| match given {
            Some(given) => vec![path(given)],
            None => defaults.iter().map(|text| path(text)).collect(),
        };
        Self {
            country: or(&spec.country, &["country.iso_code", "country_code", "country"]),
            continent: or(&spec.continent, &["continent.code", "continent_code"]),
            subdivision: or(&spec.subdivision, &["subdivisions.0.iso_code"]),
            asn: or(&spec.asn, &["autonomous_system_number", "asn"]),
        }
    }

    /// Of the areas that somebody named, those that a record is in.
    fn areas(&self, record: &maxminddb::LookupResult<'_, Vec<u8>>, places: &Places) -> Result<Vec<AreaId>, String> {
        let text = |paths: &[Vec<PathElement<'_>>]| {
            // A value of another kind at a default path is a value that is not there.
            paths.iter().find_map(|path| record.decode_path::<String>(path).ok().flatten())
        };
        let code =
            |text: Option<String>| text.and_then(|text| <[u8; 2]>::try_from(text.to_ascii_uppercase().as_bytes()).ok());
        let country = code(text(&self.country));
        let continent = code(text(&self.continent)).or_else(|| country.and_then(continent_of));
        let asn = self.asn.iter().find_map(|path| record.decode_path::<u32>(path).ok().flatten());
        let subdivision = match (country, text(&self.subdivision)) {
            (Some(country), Some(part)) => {
                let country = String::from_utf8_lossy(&country).into_owned();
                Some(Area::Subdivision(format!("{country}-{}", part.to_ascii_uppercase())))
            }
            _ => None,
        };
        let found = [country.map(Area::Country), continent.map(Area::Continent), asn.map(Area::Asn), subdivision];
        let ids: BTreeSet<_> = found.into_iter().flatten().filter_map(|area| places.ids.get(&area).copied()).collect();
        Ok(ids.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(nets: &[&str]) -> (PlaceMap, Places) {
        let mut places = Places::default();
        for net in nets {
            places.id(&net.parse().unwrap());
        }
        let map = PlaceMap::compile(None, &places, &mut Context::default());
        (map, places)
    }

    fn shown(map: &PlaceMap, places: &Places, address: &str) -> String {
        let (class, prefix) = map.find(address.parse().unwrap());
        let name = |id: &AreaId| places.ids.iter().find(|(_, other)| *other == id).unwrap().0.to_string();
        format!("/{prefix} {}", map.areas(class).iter().map(name).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn rfc7871_7_2_1_the_scope_is_the_widest_prefix_of_one_class() {
        let (map, places) = map(&["net:10.0.0.0/8", "net:10.1.0.0/16", "net:2001:db8::/32", "net:192.0.2.0/25"]);
        for (address, expected) in [
            ("10.0.0.1", "/16 net:10.0.0.0/8"),
            ("10.1.2.3", "/16 net:10.0.0.0/8 net:10.1.0.0/16"),
            ("10.200.0.1", "/9 net:10.0.0.0/8"),
            ("11.0.0.1", "/8 "),
            ("128.0.0.1", "/2 "),
            ("192.0.2.1", "/25 net:192.0.2.0/25"),
            ("192.0.2.128", "/25 "),
            ("2001:db8::1", "/32 net:2001:db8::/32"),
            ("2001:db9::1", "/32 "),
            ("8000::", "/1 "),
        ] {
            assert_eq!(shown(&map, &places, address), expected, "{address}");
        }
    }

    #[test]
    fn equal_neighbours_are_merged_and_nothing_known_is_one_range() {
        let (halves, places) = map(&["net:10.0.0.0/9"]);
        assert_eq!(halves.starts.len(), 3);
        assert_eq!(shown(&halves, &places, "10.127.255.255"), "/9 net:10.0.0.0/9");
        let (nothing, _) = map(&[]);
        assert_eq!(nothing.find("192.0.2.1".parse().unwrap()), (0, 0));
        let mut edges = Edges::new();
        add((10, 19), 1, &mut edges);
        add((20, 29), 1, &mut edges);
        assert_eq!(PlaceMap::sweep(edges, None).starts, [0, 10, 30]);
    }
}
