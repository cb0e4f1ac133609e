//! What goes over a connection to ZooKeeper: frames, each with its length before it, of integers, texts and lists.
//!
//! What is read here was written by whatever answers at the address of a ZooKeeper, and is not believed.

/// The longest frame taken, in bytes. A node has one megabyte at most, unless its server is told otherwise; what is
/// long is a list of names.
pub const LONGEST_FRAME: usize = 64 << 20;

/// The names taken of one list. Each costs more here than the four bytes that it may have on the way.
const MOST_TEXTS: usize = 1_000_000;

/// What is asked for, as ZooKeeper numbers it.
pub mod op {
    pub const CREATE: i32 = 1;
    pub const DELETE: i32 = 2;
    pub const DATA: i32 = 4;
    pub const SET_DATA: i32 = 5;
    pub const PING: i32 = 11;
    pub const CHILDREN: i32 = 12;
    pub const MULTI: i32 = 14;
    pub const REMOVE_WATCHES: i32 = 18;
    pub const AUTH: i32 = 100;
    pub const ADD_WATCH: i32 = 106;
    pub const CLOSE: i32 = -11;
}

/// Which request an answer is to, where that is not a number of our own.
pub mod xid {
    pub const EVENT: i32 = -1;
    pub const PING: i32 = -2;
    pub const AUTH: i32 = -4;
}

/// All that may be removed of a watch.
const ANY_WATCH: i32 = 3;
/// Of a node and of everything below it, again and again.
const RECURSIVE_WATCH: i32 = 1;

/// The kind of a result in an answer to [`Body::multi`] that is an error.
const NOT_DONE: i32 = -1;

/// Why bytes are not what they should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a frame of {0} bytes, which is no ZooKeeper's")]
    Length(i32),
    #[error("an answer that ends too soon")]
    Short,
    #[error("text that is not UTF-8")]
    NoText,
    #[error("a list of {0} names, of which {MOST_TEXTS} are taken")]
    Many(usize),
}

/// Bytes to be sent.
#[derive(Debug, Default, Clone)]
pub struct Body(pub Vec<u8>);

impl Body {
    pub fn int(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn long(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn flag(mut self, value: bool) -> Self {
        self.0.push(value.into());
        self
    }

    /// What is longer than can be written is cut; the server refuses far shorter ones.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        self = self.int(length);
        self.0.extend(&bytes[..bytes.len().min(i32::MAX as usize)]);
        self
    }

    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Nothing but a path, and that no watch of the old kind is wanted.
    pub fn unwatched(path: &str) -> Self {
        Self::default().text(path).flag(false)
    }

    pub fn add_watch(path: &str) -> Self {
        Self::default().text(path).int(RECURSIVE_WATCH)
    }

    pub fn remove_watches(path: &str) -> Self {
        Self::default().text(path).int(ANY_WATCH)
    }

    pub fn auth(scheme: &str, secret: &[u8]) -> Self {
        Self::default().int(0).text(scheme).bytes(secret)
    }

    /// A new session that ends when nothing is heard for so many milliseconds. A server that cannot write is of no use.
    pub fn connect(timeout_ms: i32) -> Self {
        Self::default().int(0).long(0).int(timeout_ms).long(0).bytes(&[0; 16]).flag(false)
    }

    /// Several requests, of which all are done or none.
    pub fn multi(requests: &[(i32, Self)]) -> Self {
        let mut body = Self::default();
        for (op, request) in requests {
            body = body.int(*op).flag(false).int(-1);
            body.0.extend(&request.0);
        }
        body.int(-1).flag(true).int(-1)
    }

    /// As it is sent, with its length.
    pub fn framed(self) -> Vec<u8> {
        Self::default().bytes(&self.0).0
    }

    /// A request: its number, what it asks for, and what that needs.
    pub fn request(xid: i32, op: i32, body: &Self) -> Vec<u8> {
        let mut frame = Self::default().int(xid).int(op);
        frame.0.extend(&body.0);
        frame.framed()
    }
}

/// The length of the first whole frame in `bytes`, without that of its length; none while it is not all there.
pub fn first_frame(bytes: &[u8]) -> Result<Option<usize>, WireError> {
    let Some(length) = bytes.first_chunk().map(|length| i32::from_be_bytes(*length)) else { return Ok(None) };
    match usize::try_from(length) {
        Ok(long) if long <= LONGEST_FRAME => Ok((bytes.len() - 4 >= long).then_some(long)),
        _ => Err(WireError::Length(length)),
    }
}

/// Bytes that were received, from the first that was not read yet.
pub struct Reader<'b>(pub &'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Result<&'b [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn int(&mut self) -> Result<i32, WireError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(i32::from_be_bytes(*taken))
    }

    pub fn long(&mut self) -> Result<i64, WireError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(i64::from_be_bytes(*taken))
    }

    /// A length below 0 stands for none, which is as good as empty.
    pub fn bytes(&mut self) -> Result<&'b [u8], WireError> {
        let length = self.int()?;
        self.take(usize::try_from(length).unwrap_or(0))
    }

    pub fn text(&mut self) -> Result<&'b str, WireError> {
        str::from_utf8(self.bytes()?).map_err(|_| WireError::NoText)
    }

    /// The answer to [`Body::multi`]: why nothing was done, 0 if all was. Where nothing was done, there is an error for
    /// each request: 0 for those before the one at fault, and that it was not tried for those behind it.
    pub fn first_error(&mut self) -> Result<i32, WireError> {
        loop {
            let kind = self.int()?;
            let over = self.take(1)? != [0];
            self.int()?;
            if over || kind != NOT_DONE {
                return Ok(0);
            }
            match self.int()? {
                0 => {}
                code => return Ok(code),
            }
        }
    }

    /// Each name has a length, so that no more of them are made room for than are there.
    pub fn texts(&mut self) -> Result<Vec<String>, WireError> {
        let count = usize::try_from(self.int()?).unwrap_or(0);
        if count > MOST_TEXTS {
            return Err(WireError::Many(count));
        }
        let mut texts = Vec::with_capacity(count.min(self.0.len() / 4));
        for _ in 0..count {
            texts.push(self.text()?.to_owned());
        }
        Ok(texts)
    }
}

/// What comes before each answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    pub xid: i32,
    pub zxid: i64,
    /// 0, or why there is nothing behind it.
    pub code: i32,
}

impl Head {
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { xid: reader.int()?, zxid: reader.long()?, code: reader.int()? })
    }
}

/// The answer to [`Body::connect`].
#[derive(Debug, PartialEq, Eq)]
pub struct Connected {
    /// In milliseconds. 0 or less: there is no session.
    pub timeout: i32,
    pub session: i64,
}

impl Connected {
    pub fn read(frame: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader(frame);
        reader.int()?;
        let connected = Self { timeout: reader.int()?, session: reader.long()? };
        reader.bytes()?;
        Ok(connected)
    }
}

/// Something has happened to a node that is watched.
#[derive(Debug, PartialEq, Eq)]
pub struct Event<'b> {
    pub kind: i32,
    pub path: &'b str,
}

impl Event<'_> {
    pub fn read<'b>(reader: &mut Reader<'b>) -> Result<Event<'b>, WireError> {
        let kind = reader.int()?;
        reader.int()?;
        Ok(Event { kind, path: reader.text()? })
    }

    /// The node above, and the name under it. None for the root.
    pub fn place(&self) -> Option<(&str, &str)> {
        let (parent, name) = self.path.rsplit_once('/').filter(|(_, name)| !name.is_empty())?;
        Some((if parent.is_empty() { "/" } else { parent }, name))
    }
}

/// What ZooKeeper knows of a node beside its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The change that made the data what it is.
    pub mzxid: i64,
    /// The session that it goes away with, 0 for none.
    pub owner: i64,
    /// The change that made the children who they are.
    pub pzxid: i64,
}

impl Stat {
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        reader.long()?;
        let mzxid = reader.long()?;
        // When it was made and changed; how often its data, its children and its rights were.
        reader.take(8 + 8 + 4 + 4 + 4)?;
        let owner = reader.long()?;
        // How long its data is, and how many children there are.
        reader.take(4 + 4)?;
        Ok(Self { mzxid, owner, pzxid: reader.long()? })
    }
}

/// What is in a node, and what is known of it.
pub struct Data {
    pub bytes: Vec<u8>,
    pub stat: Stat,
}

impl Data {
    pub fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader(bytes);
        let bytes = reader.bytes()?.to_vec();
        Ok(Self { bytes, stat: Stat::read(&mut reader)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_when_they_are_whole_and_have_a_length_that_can_be() {
        let frame = Body::default().text("/a").framed();
        assert_eq!(frame, [0, 0, 0, 6, 0, 0, 0, 2, b'/', b'a']);
        for cut in 0..frame.len() {
            assert_eq!(first_frame(&frame[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(first_frame(&frame), Ok(Some(6)));
        assert_eq!(first_frame(&[frame.clone(), frame].concat()), Ok(Some(6)));
        assert_eq!(first_frame(b"HTTP/1.1 400"), Err(WireError::Length(0x4854_5450)));
        assert_eq!(first_frame(&[0xff; 8]), Err(WireError::Length(-1)));
    }

    #[test]
    fn a_request_has_its_number_what_it_asks_for_and_the_rest() {
        let request = Body::request(7, op::DATA, &Body::unwatched("/a"));
        let mut reader = Reader(&request[4..]);
        assert_eq!((reader.int(), reader.int(), reader.text()), (Ok(7), Ok(op::DATA), Ok("/a")));
        assert_eq!(reader.0, [0]);
    }

    #[test]
    fn what_ends_too_soon_or_says_it_is_longer_is_told() {
        assert_eq!(Reader(&[0, 0, 0, 9, 1]).bytes(), Err(WireError::Short));
        assert_eq!(Reader(&[0xff; 4]).bytes(), Ok(&[][..]), "none is as good as empty");
        assert_eq!(Reader(&[0, 0, 0, 1, 0xff]).text(), Err(WireError::NoText));
        assert_eq!(Reader(&[0, 0x0f, 0x42, 0x40, 0, 0]).texts(), Err(WireError::Short));
        assert_eq!(Reader(&[0, 0x0f, 0x42, 0x41, 0, 0]).texts(), Err(WireError::Many(MOST_TEXTS + 1)));
        assert_eq!(Reader(&[0; 67]).stat(), Err(WireError::Short));
        assert_eq!(Reader(&[0; 68]).stat(), Ok(Stat { mzxid: 0, owner: 0, pzxid: 0 }));
    }

    impl Reader<'_> {
        fn stat(&mut self) -> Result<Stat, WireError> {
            Stat::read(self)
        }
    }

    #[test]
    fn of_several_requests_the_first_error_counts() {
        let error = |body: Body, code| body.int(-1).flag(false).int(code).int(code);
        let end = |body: Body| body.int(-1).flag(true).int(-1).0;
        let first_error = |bytes: Vec<u8>| Reader(&bytes).first_error();
        assert_eq!(first_error(end(Body::default().int(op::DELETE).flag(false).int(0))), Ok(0));
        assert_eq!(first_error(end(Body::default())), Ok(0));
        let failed = error(error(error(Body::default(), 0), -111), -2);
        assert_eq!(first_error(end(failed.clone())), Ok(-111));
        assert_eq!(first_error(failed.0[..20].to_vec()), Err(WireError::Short));
    }

    #[test]
    fn an_event_is_told_to_who_follows_the_node_above() {
        let place = |path| Event { kind: 1, path }.place().map(|(a, b)| (a.to_owned(), b.to_owned()));
        let told = |parent: &str, name: &str| Some((parent.to_owned(), name.to_owned()));
        assert_eq!(place("/a/b/c"), told("/a/b", "c"));
        assert_eq!(place("/a"), told("/", "a"));
        assert_eq!((place("/"), place("")), (None, None));
    }
}
