use super::*;

#[test]
fn every_key_reads_back_what_it_shows() {
    let settings = Settings::default();
    for param in PARAMS {
        let mut other = settings.clone();
        let shown = (param.get)(&settings);
        (param.set)(&mut other, &shown).unwrap_or_else(|why| {
            assert!(shown.is_empty(), "{}: {why}", param.name);
        });
        assert_eq!((param.get)(&other), shown, "{}", param.name);
    }
    assert!(PARAMS.windows(2).all(|pair| pair[0].name < pair[1].name), "the table is in order");
}

#[test]
fn a_file_is_read_with_comments_quotes_and_units() {
    let mut settings = Settings::default();
    let text = "# a comment\n\nport 7000\n  MaxMemory 64mb\nrequirepass \"a b\\x41\"\nsync always\n";
    settings.read_file("f", text).expect("fine");
    assert_eq!((settings.port, settings.memory_bytes), (7000, 64 << 20));
    assert_eq!((settings.requirepass.as_str(), settings.sync), ("a bA", SyncMode::Always));
}

#[test]
fn a_wrong_line_is_named_with_its_place() {
    let cases = [
        ("port 1\nfoo 1", "f:2: unknown key 'foo'"),
        ("port", "f:1: expected `name value`, found 1 words; quote a value that has blanks"),
        ("\nport 70000", "f:2: port: expected a number from 0 to 65535, not '70000'"),
        ("sync \"x", "f:1: unbalanced quotes"),
        ("sync sometimes", "f:1: sync: expected always, everysec or no, not 'sometimes'"),
        ("maxmemory 5x", "f:1: maxmemory: expected bytes, such as 1000, 64mb or 1gb, not '5x'"),
        ("slots 0-1024", "f:1: slots: slot 1024 is out of range: slots are 0 to 1023, not '0-1024'"),
    ];
    for (text, message) in cases {
        assert_eq!(Settings::default().read_file("f", text), Err(message.to_owned()));
    }
}

#[test]
fn several_keys_change_together_or_not_at_all() {
    let config = Config::new(Settings::default());
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let failed = config.change(&[pair("timeout", "5"), pair("port", "1")]);
    assert_eq!(failed, Err(pair("port", "can't set immutable config")));
    assert_eq!(config.now().timeout_s, 0);
    config.change(&[pair("timeout", "5"), pair("maxclients", "7")]).expect("fine");
    assert_eq!((config.now().timeout_s, config.now().maxclients), (5, 7));
}

#[test]
fn a_rewritten_file_keeps_its_comments_and_reads_back_to_the_same() {
    let mut settings = Settings::default();
    settings.set("masterauth", "pass \"word\"\n#").expect("a key");
    settings.set("timeout", "9").expect("a key");
    let text = rewrite("# mine\nport 7000\ntimeout 1\ntimeout 2\n", &settings);
    assert_eq!(text, "# mine\nport 7000\ntimeout 9\nmasterauth \"pass \\\"word\\\"\\n#\"\n");
    let mut read = Settings::default();
    read.read_file("f", &text).expect("fine");
    assert_eq!((read.masterauth, read.timeout_s, read.port), (settings.masterauth, 9, 7000));
}

#[test]
fn every_character_of_a_password_survives_a_rewrite() {
    // Found by fuzzing: U+0085 was written as the byte `\x85`, and the node did not start with that file.
    for password in ["a\u{85}b", "\u{85}", "\u{1}\u{7f}\u{9f}", " é\u{2028}\r", "\\x85"] {
        let mut settings = Settings::default();
        settings.set("requirepass", password).expect("a key");
        let mut read = Settings::default();
        read.read_file("f", &rewrite("", &settings)).expect("what was written is read");
        assert_eq!(read.requirepass, password);
    }
}
