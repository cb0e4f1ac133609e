//! Tasks whose end nobody waits for.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

/// Runs a task that belongs to something which notices its end by itself, as a connection is closed. A panic in it is
/// told; what it holds is dropped.
pub async fn guarded(name: &'static str, task: impl Future<Output = ()>) {
    let _ = Guarded { name, task: Box::pin(task) }.await;
}

struct Guarded<F> {
    name: &'static str,
    task: Pin<Box<F>>,
}

impl<F: Future<Output = ()>> Future for Guarded<F> {
    type Output = Result<(), ()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        let Self { name, task } = &mut *self;
        // Nobody looks at the task again after a panic.
        match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => {
                tracing::error!(task = *name, error = text(&*panic), "Task panicked");
                Poll::Ready(Err(()))
            }
        }
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_a_task_and_drops_what_it_holds() {
        let held = std::rc::Rc::new(());
        let task = {
            let held = held.clone();
            async move {
                let _held = held;
                panic!("on purpose");
            }
        };
        guarded("test", task).await;
        assert_eq!(std::rc::Rc::strong_count(&held), 1);
    }
}
