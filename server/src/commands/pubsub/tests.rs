use crate::config::Settings;
use crate::testing::Bench;

fn told(bench: &Bench) -> String {
    let mailbox = &bench.session.subscriptions.as_ref().expect("it listens").mailbox;
    String::from_utf8_lossy(&mailbox.take()).replace("\r\n", " ").trim_end().to_owned()
}

#[test]
fn messages_reach_who_listens_to_the_channel_or_a_pattern_of_it() {
    let mut bench = Bench::new();
    let mut listener = bench.beside();
    listener.check(
        "subscribe news news other     -> *3 $9 subscribe $4 news :1 *3 $9 subscribe $4 news :1 *3 $9 subscribe $5 other :2
         psubscribe n*                 -> *3 $10 psubscribe $2 n* :3
         ssubscribe news               -> *3 $10 ssubscribe $4 news :1
         get a                         -> -ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context
         ping                          -> *2 $4 pong $0
         ping x                        -> *2 $4 pong $1 x",
    );
    bench.check(
        "publish news hi               -> :2
         publish nothing x             -> :1
         publish silence x             -> :0
         spublish news shard           -> :1
         pubsub channels               -> *2 $4 news $5 other
         pubsub channels n*            -> *1 $4 news
         pubsub numsub news x          -> *4 $4 news :1 $1 x :0
         pubsub numpat                 -> :1
         pubsub shardchannels          -> *1 $4 news
         pubsub shardnumsub news       -> *2 $4 news :1
         pubsub numsub                 -> *0
         pubsub foo                    -> -ERR unknown subcommand 'foo'. Try PUBSUB HELP.",
    );
    assert!(bench.run("client list").contains(" flags=P db=0 sub=2 psub=1 ssub=1 "));
    assert_eq!(
        told(&listener),
        "*3 $7 message $4 news $2 hi *4 $8 pmessage $2 n* $4 news $2 hi *4 $8 pmessage $2 n* $7 nothing $1 x \
         *3 $8 smessage $4 news $5 shard"
    );
    listener.check(
        "unsubscribe news              -> *3 $11 unsubscribe $4 news :2
         unsubscribe                   -> *3 $11 unsubscribe $5 other :1
         unsubscribe                   -> *3 $11 unsubscribe $-1 :1
         punsubscribe                  -> *3 $12 punsubscribe $2 n* :0
         get a                         -> -ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context
         sunsubscribe                  -> *3 $12 sunsubscribe $4 news :0
         get a                         -> $-1
         unsubscribe                   -> *3 $11 unsubscribe $-1 :0
         subscribe news                -> *3 $9 subscribe $4 news :1",
    );
    // What came before an end comes before its answer.
    bench.check("publish news last -> :1");
    listener.check("unsubscribe -> *3 $7 message $4 news $4 last *3 $11 unsubscribe $4 news :0");
    listener.check("subscribe a -> *3 $9 subscribe $1 a :1\nreset -> +RESET\nget a -> $-1");
    bench.check("publish a x -> :0");
    drop(listener);
}

#[test]
fn in_resp3_messages_are_pushed_and_all_commands_go_on() {
    let bench = Bench::new();
    let mut listener = bench.beside().resp3();
    listener.check(
        "subscribe news   -> >3 $9 subscribe $4 news :1
         get a            -> _
         publish news x   -> :1
         ping             -> +PONG",
    );
    assert_eq!(told(&listener), ">3 $7 message $4 news $1 x");
}

#[test]
fn a_message_of_a_transaction_waits_for_exec() {
    let mut bench = Bench::new();
    let mut listener = bench.beside();
    listener.check("subscribe news -> *3 $9 subscribe $4 news :1");
    bench.check("multi -> +OK\npublish news x -> +QUEUED\nset a 1 -> +QUEUED");
    assert_eq!(told(&listener), "");
    bench.check("exec -> *2 :1 +OK");
    assert_eq!(told(&listener), "*3 $7 message $4 news $1 x");
}

#[test]
fn a_listener_that_does_not_read_loses_its_connection() {
    let mut bench = Bench::new();
    bench.check(
        "config set client-output-buffer-limit \"pubsub 100 0 0\"    -> +OK
         config get client-output-buffer-limit                         -> *2 $26 client-output-buffer-limit $14 pubsub 100 0 0",
    );
    let mut listener = bench.beside();
    listener.check("subscribe news -> *3 $9 subscribe $4 news :1");
    let text = "x".repeat(50);
    for _ in 0..2 {
        assert!(!listener.session.client.is_killed());
        assert_eq!(bench.run(&format!("publish news {text}")), ":1");
    }
    assert!(listener.session.client.is_killed());
}

#[test]
fn behind_codis_channels_of_slots_are_refused() {
    let mut bench = Bench::with(Settings::default());
    bench.check("ssubscribe a -> -ERR SSUBSCRIBE is not served behind Codis: connect to a standalone node");
    bench.check("subscribe a -> *3 $9 subscribe $1 a :1");
}
