//! `command = ["/usr/bin/vault", "kv", "get", …]`: a program that prints a secret, and its arguments. Runs nothing; that is
//! done where a configuration is read (`portcullis-config`).

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::path::Path;

/// A program by its whole path, and its arguments as they are: there is no shell. Arguments are shown like all of a
/// configuration, so none of them may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct SecretCommand(Vec<String>);

/// Why words are no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotACommand {
    #[error("no program is named; write its whole path, like [\"/usr/bin/vault\", \"kv\", \"get\"]")]
    NoProgram,
    #[error("the program \"{}\" is not named by its whole path; write one that begins with /", .0.escape_debug())]
    NotAbsolute(String),
    #[error("more than {WORDS_MAX} words; write a script and name that")]
    TooManyWords,
}

/// The program and its arguments.
const WORDS_MAX: usize = 64;

impl SecretCommand {
    pub fn new(words: impl IntoIterator<Item = String>) -> Result<Self, NotACommand> {
        let words: Vec<String> = words.into_iter().collect();
        let program = words.first().ok_or(NotACommand::NoProgram)?;
        // A bare name would be looked for in PATH, and a relative one in a folder that is chosen elsewhere: either can be
        // somebody else's program.
        if !Path::new(program).is_absolute() {
            return Err(NotACommand::NotAbsolute(program.clone()));
        }
        if words.len() > WORDS_MAX { Err(NotACommand::TooManyWords) } else { Ok(Self(words)) }
    }

    pub fn program(&self) -> &Path {
        Path::new(self.0.first().map_or("", String::as_str))
    }

    pub fn arguments(&self) -> &[String] {
        self.0.get(1..).unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for SecretCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl JsonSchema for SecretCommand {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretCommand".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "array",
            "description": "A program by its whole path, and its arguments; there is no shell. What it prints is the secret, \
                less one line break at the end: at most 64 KiB, within 5 seconds (all commands of a configuration: 30). It \
                runs in the folder of the configuration file that names it, with the environment of this process, as its \
                user. It is run anew whenever the configuration is read, at the start, at each reload and by \
                `portcullis check`, and not in between. Arguments are shown like the rest of a configuration: none of them \
                may be a secret.",
            "items": { "type": "string" },
            "minItems": 1,
            "maxItems": WORDS_MAX,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_by_its_whole_path() {
        let told = |words: &[&str]| SecretCommand::new(words.iter().map(|word| (*word).to_owned())).map(|_| ());
        assert_eq!(told(&["/usr/bin/vault", "kv", ""]), Ok(()));
        assert_eq!(told(&[]), Err(NotACommand::NoProgram));
        for bad in ["vault", "", "./vault", "bin/vault", "~/vault"] {
            assert_eq!(told(&[bad, "/kv"]), Err(NotACommand::NotAbsolute(bad.to_owned())));
        }
        assert_eq!(told(&["/a"; WORDS_MAX]), Ok(()));
        assert_eq!(told(&["/a"; WORDS_MAX + 1]), Err(NotACommand::TooManyWords));
    }

    #[test]
    fn words_are_read_as_they_are() {
        let command: SecretCommand = serde_json::from_str(r#"["/bin/sh", "-c", "echo $X; *"]"#).unwrap();
        assert_eq!(
            (command.program(), command.arguments()),
            (Path::new("/bin/sh"), &["-c".to_owned(), "echo $X; *".to_owned()][..])
        );
        for (bad, why) in
            [("[]", "no program"), (r#"["sh"]"#, "whole path"), (r#"["/a", 5]"#, "string"), (r#""/a""#, "sequence")]
        {
            let error = serde_json::from_str::<SecretCommand>(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
