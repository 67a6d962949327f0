//! What makes a module a router: its exports, its imports, and which of the three interfaces that is.

use pointsman_protocol::admin::Interface;
use wasmtime::component::{
    Component, ComponentExportIndex, HasSelf, InstancePre as ComponentPre, Linker as ComponentLinker,
};
use wasmtime::{
    Engine, ExternType, InstancePre, Linker, Memory, Module, Store, TypedFunc, ValType, component,
};

use super::artefact::Code;
use super::store::State;
use super::typed::{TypedRouter, TypedRouterPre, add_imports};
use crate::error::ModuleError;

const TYPED: &str = "pointsman:router/typed@0.1.0";
const PACKED: &str = "pointsman:router/packed@0.1.0";
const HOST: &str = "pointsman:router/host@0.1.0";

/// A router module, linked and ready to make instances of.
pub(crate) enum Guest {
    Core(InstancePre<State>),
    Packed {
        pre: ComponentPre<State>,
        configure: ComponentExportIndex,
        route: ComponentExportIndex,
    },
    Typed(TypedRouterPre<State>),
}

type Bytes = Vec<u8>;

/// The functions of one instance.
pub(crate) enum Exports {
    Core {
        memory: Memory,
        alloc: TypedFunc<u32, u32>,
        configure: TypedFunc<(u32, u32, u32, u32), u64>,
        route: TypedFunc<(u32, u32), u64>,
    },
    Packed {
        configure: component::TypedFunc<(Bytes, Bytes), (Result<Bytes, String>,)>,
        route: component::TypedFunc<(Bytes,), (Bytes,)>,
    },
    Typed(TypedRouter),
}

impl Guest {
    /// Finds the interface of a module.
    ///
    /// # Errors
    /// When it imports what is not granted, or has none of the interfaces.
    pub(crate) fn new(engine: &Engine, code: Code) -> Result<Guest, ModuleError> {
        match code {
            Code::Core(module) => Guest::core(engine, &module),
            Code::Component(component) => Guest::component(engine, &component),
        }
    }

    pub(crate) fn interface(&self) -> Interface {
        match self {
            Guest::Core(_) => Interface::Core,
            Guest::Packed { .. } => Interface::Packed,
            Guest::Typed(_) => Interface::Typed,
        }
    }

    fn core(engine: &Engine, module: &Module) -> Result<Guest, ModuleError> {
        let imports: Vec<String> = module
            .imports()
            .map(|i| format!("{}.{}", i.module(), i.name()))
            .collect();
        if !imports.is_empty() {
            return Err(ModuleError::Imports(imports));
        }
        let function = |name: &str, params: usize, result: ValType| {
            matches!(module.get_export(name), Some(ExternType::Func(f))
                if f.params().len() == params
                    && f.params().all(|p| ValType::eq(&p, &ValType::I32))
                    && f.results().len() == 1
                    && f.results().all(|r| ValType::eq(&r, &result)))
        };
        let exports = [
            (
                "memory",
                matches!(module.get_export("memory"), Some(ExternType::Memory(_))),
            ),
            ("alloc(i32) -> i32", function("alloc", 1, ValType::I32)),
            (
                "configure(i32, i32, i32, i32) -> i64",
                function("configure", 4, ValType::I64),
            ),
            ("route(i32, i32) -> i64", function("route", 2, ValType::I64)),
        ];
        let missing: Vec<&str> = exports
            .iter()
            .filter(|(_, there)| !there)
            .map(|(name, _)| *name)
            .collect();
        if !missing.is_empty() {
            return Err(ModuleError::Invalid(format!(
                "it does not export {}",
                missing.join(", ")
            )));
        }
        Linker::new(engine)
            .instantiate_pre(module)
            .map(Guest::Core)
            .map_err(invalid)
    }

    fn component(engine: &Engine, module: &Component) -> Result<Guest, ModuleError> {
        let imports: Vec<String> = module
            .component_type()
            .imports(engine)
            .map(|(name, _)| name.to_owned())
            .filter(|name| name != HOST)
            .collect();
        if !imports.is_empty() {
            return Err(ModuleError::Imports(imports));
        }
        let mut linker = ComponentLinker::new(engine);
        add_imports::<_, HasSelf<_>>(&mut linker, |state| state).map_err(invalid)?;
        let function = |name: &str| {
            let interface = module.get_export_index(None, PACKED)?;
            module.get_export_index(Some(&interface), name)
        };
        let typed = module.get_export_index(None, TYPED).is_some();
        if let (Some(configure), Some(route)) = (function("configure"), function("route")) {
            let pre = linker.instantiate_pre(module).map_err(invalid)?;
            return Ok(Guest::Packed {
                pre,
                configure,
                route,
            });
        }
        if !typed {
            return Err(ModuleError::Invalid(format!(
                "it exports neither {PACKED} nor {TYPED}"
            )));
        }
        let pre = linker.instantiate_pre(module).map_err(invalid)?;
        TypedRouterPre::new(pre).map(Guest::Typed).map_err(invalid)
    }

    /// A new instance in a store of its own.
    pub(crate) async fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Exports> {
        match self {
            Guest::Core(pre) => {
                let instance = pre.instantiate_async(&mut *store).await?;
                let memory = instance.get_memory(&mut *store, "memory");
                Ok(Exports::Core {
                    memory: memory.ok_or_else(|| wasmtime::Error::msg("it exports no memory"))?,
                    alloc: instance.get_typed_func(&mut *store, "alloc")?,
                    configure: instance.get_typed_func(&mut *store, "configure")?,
                    route: instance.get_typed_func(&mut *store, "route")?,
                })
            }
            Guest::Packed {
                pre,
                configure,
                route,
            } => {
                let instance = pre.instantiate_async(&mut *store).await?;
                Ok(Exports::Packed {
                    configure: instance.get_typed_func(&mut *store, configure)?,
                    route: instance.get_typed_func(&mut *store, route)?,
                })
            }
            Guest::Typed(pre) => Ok(Exports::Typed(pre.instantiate_async(store).await?)),
        }
    }
}

fn invalid(error: wasmtime::Error) -> ModuleError {
    ModuleError::Invalid(format!("{error:#}"))
}
