use super::*;

/// Parses `input`, delivered in pieces that end at `cuts`, to the commands and the error in it.
fn parse(input: &[u8], cuts: &[usize], limits: &Limits) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
    let (mut parser, mut commands) = (Parser::default(), Vec::new());
    let mut begin = 0;
    for &cut in cuts.iter().chain([&input.len()]) {
        loop {
            let buffer = &input[begin..cut];
            match parser.next(buffer, limits) {
                Ok(Parsed::Request(bytes)) => {
                    commands.push(parser.args(buffer).iter().map(|arg| arg.to_vec()).collect());
                    begin += bytes;
                }
                Ok(Parsed::Nothing(bytes)) => begin += bytes,
                Ok(Parsed::Incomplete) => break,
                Err(error) => return (commands, Some(error.to_string())),
            }
        }
    }
    (commands, None)
}

const MIXED: &[u8] =
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\nb\n\r\nPING\r\n\r\n*0\r\n*-1\r\n  GET  \"a b\\x41\" 'c\\'d'\n*1\r\n$0\r\n\r\n";

#[test]
fn a_stream_cut_at_every_byte_gives_the_same_commands() {
    let limits = Limits::default();
    let whole = parse(MIXED, &[], &limits);
    let expected: Vec<Vec<Vec<u8>>> = vec![
        vec![b"SET".to_vec(), b"k".to_vec(), b"a\r\nb\n".to_vec()],
        vec![b"PING".to_vec()],
        vec![b"GET".to_vec(), b"a bA".to_vec(), b"c'd".to_vec()],
        vec![b"".to_vec()],
    ];
    assert_eq!(whole, (expected, None));
    for cut in 0..MIXED.len() {
        assert_eq!(parse(MIXED, &[cut], &limits), whole, "cut at {cut}");
        for second in cut..MIXED.len() {
            assert_eq!(parse(MIXED, &[cut, second], &limits), whole, "cut at {cut}, {second}");
        }
    }
    let every: Vec<usize> = (0..MIXED.len()).collect();
    assert_eq!(parse(MIXED, &every, &limits), whole);
}

#[test]
fn what_is_not_the_protocol_is_refused_in_the_words_of_redis() {
    let long = [b"*".as_slice(), &[b'1'; 70_000]].concat();
    let long_bulk = [b"*1\r\n$".as_slice(), &[b'1'; 70_000]].concat();
    let long_inline = vec![b'x'; 70_000];
    let cases: &[(&[u8], &str)] = &[
        (b"*x\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n\r\r\n", "expected '$', got '?'"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"get \"x\r\n", "unbalanced quotes in request"),
        (b"get \"x\"y\r\n", "unbalanced quotes in request"),
        (&long, "too big mbulk count string"),
        (&long_bulk, "too big bulk count string"),
        (&long_inline, "too big inline request"),
    ];
    for (input, message) in cases {
        let (commands, error) = parse(input, &[], &Limits::default());
        assert!(commands.is_empty());
        assert_eq!(error, Some(format!("Protocol error: {message}")));
    }
}

#[test]
fn a_stranger_gets_small_limits() {
    let limits = Limits { authenticated: false, ..Limits::default() };
    let refused = |input: &[u8]| parse(input, &[], &limits).1.expect("an error");
    assert_eq!(refused(b"*11\r\n"), "Protocol error: unauthenticated multibulk length");
    assert_eq!(refused(b"*1\r\n$16385\r\n"), "Protocol error: unauthenticated bulk length");
    assert_eq!(parse(b"*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n", &[], &limits).0.len(), 1);
}

#[test]
fn a_request_that_never_ends_is_refused() {
    let limits = Limits { request_bytes_max: 100, ..Limits::default() };
    let mut input = b"*1000\r\n".to_vec();
    (0..50).for_each(|_| input.extend_from_slice(b"$1\r\nx\r\n"));
    assert_eq!(parse(&input, &[], &limits).1, Some("Protocol error: too big request".to_owned()));
}

#[test]
fn damaged_requests_give_the_same_however_they_are_cut_and_never_panic() {
    let limits = Limits { bulk_bytes_max: 100, args_max: 20, request_bytes_max: 1000, authenticated: true };
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % below
    };
    for round in 0..20_000 {
        let mut input = MIXED.to_vec();
        for _ in 0..=random(3) {
            let at = random(input.len());
            let new = b"*$\r\n0123456789-\"'\\ x"[random(20)];
            match random(3) {
                0 => input[at] = new,
                1 => input.insert(at, new),
                _ => drop(input.remove(at)),
            }
        }
        let whole = parse(&input, &[], &limits);
        let mut cuts: Vec<usize> = (0..random(5)).map(|_| random(input.len())).collect();
        cuts.sort_unstable();
        assert_eq!(
            parse(&input, &cuts, &limits),
            whole,
            "round {round}: {:?}",
            String::from_utf8_lossy(&input)
        );
    }
}

#[test]
fn an_announced_length_takes_no_memory() {
    let mut parser = Parser::default();
    let buffer = b"*1000000\r\n$536870912\r\n";
    assert_eq!(parser.next(buffer, &Limits::default()), Ok(Parsed::Incomplete));
    assert!(parser.found.capacity() < 1024);
    assert_eq!(parser.wanted(buffer), 536_870_914);
}
