//! The exports of a module.

/// Makes a module of a router: exports the packed interface when built for Wasm, and only checks that the type is a
/// router when built for anything else, such as tests.
#[macro_export]
macro_rules! export {
    ($router:ty) => {
        const _: () = {
            #[cfg(target_arch = "wasm32")]
            mod pointsman_exports {
                use super::*;

                thread_local! {
                    static INSTANCE: ::std::cell::RefCell<Option<$crate::Instance<$router>>> =
                        const { ::std::cell::RefCell::new(None) };
                }

                struct Module;

                impl $crate::guest::Guest for Module {
                    fn configure(config: Vec<u8>, targets: Vec<u8>) -> Result<Vec<u8>, String> {
                        let (instance, plan) = $crate::Instance::configure(&config, &targets)?;
                        INSTANCE.set(Some(instance));
                        Ok(plan)
                    }

                    fn route(batch: Vec<u8>) -> Vec<u8> {
                        INSTANCE.with_borrow_mut(|instance| match instance {
                            Some(instance) => instance.route(&batch),
                            None => panic!("route was called before configure"),
                        })
                    }
                }

        $crate::guest::bindings::export!(Module with_types_in $crate::guest::bindings);
            }

            const fn is_a_router<R: $crate::Router>() {}
            is_a_router::<$router>();
        };
    };
}
