//! Documents of several files.

use crate::spec::{RESERVED, Spec};
use portcullis_config::{Colour, Context, Document, Level, Path, Report};
use portcullis_names::SecretRef;
use std::{fs, path::PathBuf, sync::Arc};
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let file = folder.at(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, files: &[&str]) -> (Arc<Document>, Report) {
        let files: Vec<_> = files.iter().map(|name| self.at(name)).collect();
        let (document, report) = Document::load(&files);
        (Arc::new(document), report)
    }
}

fn only(report: &Report) -> String {
    assert_eq!(report.problems().len(), 1, "{}", report.render(Colour::Plain));
    report.lines().remove(0)
}

#[test]
fn named_tables_of_all_files_are_one_union() {
    let folder = Folder::new(&[
        ("edge.toml", "schema = \"1\"\ninclude = [\"conf.d/*.toml\"]\n[process]\nthreads = 2\n[route.a]\n"),
        ("conf.d/1.toml", "schema = \"1\"\n[process]\ndrain = \"1s\"\n[route.b]\ninclude_not = 1\n"),
        ("conf.d/2.toml", "include = [\"deep/*.toml\"]\n[route.c]\n"),
        ("conf.d/.hidden.toml", "[route.a]\n"),
        ("conf.d/deep/3.toml", "[upstream.u]\nendpoints = [\"1.2.3.4:5\"]\n"),
    ]);
    let (document, report) = folder.load(&["edge.toml"]);
    assert!(report.is_empty(), "{}", report.render(Colour::Plain));
    let (spec, cx) = document.read::<Spec>(report, RESERVED);
    let spec = spec.unwrap();
    assert_eq!(spec.route.keys().map(ToString::to_string).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(spec.process.is_some_and(|process| process.threads == Some(2) && process.drain.is_some()));
    let (report, watched) = cx.finish();
    let line = only(&report);
    assert!(line.contains("conf.d/1.toml:5:1: unknown key `include_not`"), "{line}");
    for name in ["edge.toml", "conf.d/*.toml", "conf.d/deep/*.toml", "conf.d/deep/3.toml"] {
        assert!(watched.contains(&folder.at(name)), "{name} in {watched:?}");
    }
}

#[test]
fn what_is_defined_in_two_files_shows_both_places() {
    for (one, two, path, line) in [
        ("[route.shop]\n", "\n[route.shop]\nhosts = []\n", "route.shop", 2),
        ("[process]\nthreads = 1\n", "[process]\nthreads = 2\n", "process.threads", 2),
        ("a = 1\n", "a = 1\n", "a", 1),
        ("route = 5\n", "[route.shop]\n", "route", 1),
    ] {
        let folder = Folder::new(&[("1.toml", one), ("2.toml", two)]);
        let (_, report) = folder.load(&["1.toml", "2.toml"]);
        let text = report.render(Colour::Plain);
        assert!(only(&report).contains(&format!("2.toml:{line}:")), "{text}");
        assert!(text.contains(&format!("`{path}` is defined twice")) && text.contains("first defined here"), "{text}");
        let related = &report.problems()[0].related[0];
        assert!(related.place.as_ref().unwrap().file.ends_with("1.toml"));
    }
}

#[test]
fn rings_doubles_and_empty_patterns_are_named() {
    type Files<'f> = &'f [(&'f str, &'f str)];
    let cases: [(Files<'_>, &str, Level); 6] = [
        (
            &[("edge.toml", "include = [\"b.toml\"]"), ("b.toml", "include = [\"edge.toml\"]")],
            "b.toml:1:12: files include one another in a ring",
            Level::Error,
        ),
        (&[("edge.toml", "include = [\"b.toml\", \"?.toml\"]"), ("b.toml", "")], "edge.toml:1:22: ", Level::Warning),
        (&[("edge.toml", "include = [\"*.toml\"]")], "the pattern also matches", Level::Warning),
        (&[("edge.toml", "include = [\"conf.d/*.toml\"]")], "no file matches", Level::Warning),
        (&[("edge.toml", "include = [\"a[\"]")], "is not a file pattern", Level::Error),
        (&[("edge.toml", "include = \"a\"")], "`include` expects an array", Level::Error),
    ];
    for (files, message, level) in cases {
        let folder = Folder::new(files);
        let (_, report) = folder.load(&["edge.toml"]);
        let line = only(&report);
        assert!(line.contains(message), "{message}: {line}");
        assert_eq!(report.problems()[0].level, level, "{line}");
    }
}

#[test]
fn what_cannot_be_read_is_said_where_it_is_asked_for() {
    let folder = Folder::new(&[("edge.toml", "a = 1\n")]);
    let line = only(&folder.load(&["gone.toml"]).1);
    assert!(line.contains("cannot read") && line.contains("gone.toml"), "{line}");
    fs::write(folder.at("latin.toml"), b"a = 1\nname = \"caf\xe9\"\n").unwrap();
    let line = only(&folder.load(&["latin.toml"]).1);
    assert!(line.contains("latin.toml:2:12: the file is not UTF-8 here"), "{line}");
    let file = fs::File::create(folder.at("large.toml")).unwrap();
    file.set_len((16 << 20) + 1).unwrap();
    assert!(only(&folder.load(&["large.toml"]).1).contains("larger than 16 MiB"));
}

#[test]
fn nesting_and_including_have_a_depth() {
    let deep = format!("a = {}1{}", "[".repeat(500), "]".repeat(500));
    let (_, report) = Document::parse("a.toml", &deep);
    assert!(report.has_errors(), "{}", report.summary());
    let files: Vec<_> = (0..30).map(|n| (format!("{n}.toml"), format!("include = [\"{}.toml\"]", n + 1))).collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let (_, report) = Folder::new(&files).load(&["0.toml"]);
    assert!(only(&report).contains("more than 16 levels"), "{}", report.render(Colour::Plain));
}

#[test]
fn files_named_in_a_file_count_from_its_folder_and_are_watched() {
    let folder = Folder::new(&[
        ("edge.toml", "include = [\"team/*.toml\"]\n[process]\n"),
        ("team/a.toml", "[certificate.a]\ncert = \"a.crt\"\nkey.file = \"a.key\"\n"),
        ("team/a.crt", "CERT"),
        ("team/a.key", "KEY"),
    ]);
    let (document, report) = folder.load(&["edge.toml"]);
    let mut cx = Context::new(document, report);
    let at = Path::root().key("certificate").key("a");
    assert_eq!(cx.read(&at.key("cert"), "a.crt".as_ref()).as_deref(), Some(b"CERT".as_slice()));
    assert_eq!(cx.read(&at.key("ocsp"), "gone".as_ref()), None);
    assert_eq!(cx.secret(&at.key("key"), &SecretRef::Env("PORTCULLIS_NO_SUCH_VARIABLE".into())), None);
    permit(&folder, 0o600);
    assert_eq!(cx.secret(&at.key("key"), &SecretRef::File("a.key".into())).as_deref(), Some(b"KEY".as_slice()));
    assert_eq!(cx.report().problems().len(), 2, "{:?}", cx.report().lines());
    permit(&folder, 0o644);
    cx.secret(&at.key("key"), &SecretRef::File("a.key".into()));
    let (report, watched) = cx.finish();
    let lines = report.lines();
    for message in ["a.toml:1:14: cannot read", "PORTCULLIS_NO_SUCH_VARIABLE is not set", "a.toml:3:12: every user"] {
        assert!(lines.iter().any(|line| line.contains(message)), "{message} in {lines:#?}");
    }
    for name in ["team/a.crt", "team/a.key", "team/gone", "team/*.toml"] {
        assert_eq!(watched.iter().filter(|file| **file == folder.at(name)).count(), 1, "{name} in {watched:?}");
    }
}

#[test]
fn a_program_that_anybody_can_change_is_not_run() {
    let folder = Folder::new(&[
        ("edge.toml", "[certificate.a]\ncert = \"a.crt\"\nkey.command = [\"/bin/x\"]\n"),
        ("team/a.key", "#!/bin/sh\ntouch ran\necho KEY\n"),
    ]);
    let program = folder.at("team/a.key").display().to_string();
    let secret = SecretRef::Command(portcullis_names::SecretCommand::new([program.clone()]).unwrap());
    let at = Path::root().key("certificate").key("a").key("key");
    for (mode, read) in [(0o777, None), (0o755, Some(b"KEY".as_slice()))] {
        permit(&folder, mode);
        let (document, report) = folder.load(&["edge.toml"]);
        let mut cx = Context::new(document, report);
        assert_eq!(cx.secret(&at, &secret).as_deref(), read, "{mode:o}");
        // It runs in the folder of the file that names it.
        assert_eq!(folder.at("ran").exists(), read.is_some(), "{mode:o}");
        let told = format!("edge.toml:3:15: every user of this machine can change {program}");
        assert_eq!(
            cx.report().lines().iter().any(|line| line.contains(&told)),
            read.is_none(),
            "{:?}",
            cx.report().lines()
        );
    }
}

fn permit(folder: &Folder, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder.at("team/a.key"), fs::Permissions::from_mode(mode)).unwrap();
}
