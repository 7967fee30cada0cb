//! A secret that was written down by mistake is never repeated, in no form of the report.

use crate::spec::read;
use portcullis_config::Colour;

#[test]
fn no_form_of_a_report_repeats_a_secret() {
    for text in [
        "[certificate.a]\ncert = \"x\"\nkey = \"hunter2\"\n",
        "[certificate.a]\ncert = 5\nkey = \"hunter2\"\n",
        "certificate.a = { cert = 5, key = \"hunter2\", x = 1 }\n",
        "[certificate.a]\ncert = \"x\"\nkey = { value = \"hunter2\" }\n",
        "[certificate.a]\ncert = \"x\"\nkey = { env = 5, password = \"hunter2\" }\n",
        "[certificate.a]\ncert = \"x\"\nkey = [\"hunter2\"]\n",
        "[certificate.a]\ncert = \"x\"\nkye = \"hunter2\"\n",
        "[route.a]\npassword = \"hunter2\"\n",
        "[route.a]\napi_token = [{ value = \"hunter2\" }]\n",
        "identity.corp = { client_secret = \"hunter2\" }\n",
        "[certificate.a]\ncert = \"x\"\nkey = '''\n-----BEGIN-----\nhunter2\n'''\n",
        "[certificate.a]\ncert = \"x\"\nkey = \"hunter2\n",
        "[certificate.a]\ncert = \"x\"\nkey = \"\"\"\nhunter2\n",
        "[certificate.a]\nkey = \"hunter2\" x\ncert = \n",
        "[certificate.a]\nkey = hunter2\n",
    ] {
        let (_, cx) = read(text);
        let (report, _) = cx.finish();
        assert!(report.has_errors(), "{text}");
        let mut forms = vec![report.render(Colour::Plain), report.render(Colour::Ansi), report.to_json().to_string()];
        forms.extend(report.lines());
        for form in forms {
            assert!(!form.contains("hunter2"), "{text}\n{form}");
        }
    }
}

#[test]
fn what_is_no_secret_stays_readable() {
    let (_, cx) = read("[certificate.a]\nkey = { file = \"certs/a.key\" }\ncert = 5\n");
    let text = cx.finish().0.render(Colour::Plain);
    assert!(text.contains("cert = 5") && !text.contains('*'), "{text}");
}
