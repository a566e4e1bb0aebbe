use super::*;

fn positions(keys: Keys, args: &[&'static str]) -> Vec<usize> {
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    let mut out = Vec::new();
    keys.positions(&args, &mut out);
    out
}

#[test]
fn every_command_is_found_by_its_name_in_any_case() {
    for command in all() {
        assert_eq!(command.name, command.name.to_ascii_lowercase());
        let found = find(command.name.to_ascii_uppercase().as_bytes()).expect("in the table");
        assert!(std::ptr::eq(found, *command));
    }
    assert!(find(b"nosuch").is_none() && find(b"").is_none());
}

#[test]
fn every_data_command_says_whether_it_writes() {
    for command in all().iter().filter(|command| matches!(command.run, Run::Data(_))) {
        let (write, read) = (command.flags.has(Flags::WRITE), command.flags.has(Flags::READONLY));
        assert!(write != read, "{}", command.name);
        assert!(!matches!(command.keys, Keys::None), "{}", command.name);
    }
}

#[test]
fn keys_are_found_where_the_table_says() {
    assert_eq!(positions(Keys::FIRST, &["get", "a"]), [1]);
    assert_eq!(positions(Keys::ALL, &["del", "a", "b"]), [1, 2]);
    let mset = Keys::Range { first: 1, last: -1, step: 2 };
    assert_eq!(positions(mset, &["mset", "a", "1", "b", "2"]), [1, 3]);
    let bitop = Keys::Range { first: 2, last: -1, step: 1 };
    assert_eq!(positions(bitop, &["bitop", "and", "d", "s"]), [2, 3]);
    assert_eq!(positions(Keys::FIRST_TWO, &["rename", "a"]), [1]);
    let union = Keys::Custom(|args, positions| numbered_keys(args, 1, positions));
    assert_eq!(positions(union, &["zunion", "2", "a", "b", "weights"]), [2, 3]);
    assert!(positions(union, &["zunion", "9223372036854775807", "a"]).is_empty());
    assert!(positions(union, &["zunion", "-1", "a"]).is_empty());
}

#[test]
fn every_command_of_redis_is_supported_or_refused_on_purpose() {
    let missing: Vec<&str> =
        include_str!("redis-7.0.15.txt").lines().filter(|name| named(name.as_bytes()).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // The numbers leave no gap and none is given twice.
    let mut ids: Vec<usize> = every().map(|command| command.id).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..count()));
}

#[test]
fn what_redis_has_not_says_so() {
    let redis: Vec<&str> = include_str!("redis-7.0.15.txt").lines().collect();
    for command in every().filter(|command| command.stand == Stand::Own && command.subs.is_empty()) {
        assert!(!redis.contains(&command.name), "{} is Redis', too", command.name);
    }
}

#[test]
fn requests_are_resolved_with_their_second_words() {
    let resolved = |line: &str| {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        resolve(&args).map(|command| command.name)
    };
    assert_eq!(resolved("CLIENT List"), Ok("client|list"));
    assert_eq!(resolved("client"), Err(Unfit::Arity("client")));
    assert_eq!(resolved("client getname x"), Err(Unfit::Arity("client|getname")));
    assert_eq!(resolved("client nosuch"), Err(Unfit::UnknownSub("client")));
    assert_eq!(resolved("command"), Ok("command"));
    assert_eq!(resolved("xinfo stream k"), Ok("xinfo|stream"));
    assert_eq!(resolved("nosuch x"), Err(Unfit::Unknown));
}
