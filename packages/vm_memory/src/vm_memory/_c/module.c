/* vm_memory._core: the part of guest memory that is C because a benchmark says so (every access
 * goes through it) or because Python cannot promise it (one access, one order, one mark).
 */
#include "core.h"

PyTypeObject *DirtyBitmap_Type, *Region_Type, *Window_Type, *MemoryMap_Type;

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromSpec(spec);
    return *type ? PyModule_AddType(module, *type) : -1;
}

static const struct {
    const char *name;
    int value;
} constants[] = {
    {"RELAXED", RELAXED},     {"ACQUIRE", ACQUIRE}, {"RELEASE", RELEASE},
    {"SEQ_CST", SEQ_CST},     {"READ_ONLY", READ_ONLY},
    {"UNTRACKED", UNTRACKED},
};

static int add_constants(PyObject *module)
{
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++)
        if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) < 0)
            return -1;
    return 0;
}

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "vm_memory._core",
    .m_doc = "Checked access to guest memory.",
    .m_size = -1, /* the types above are the process's: one interpreter */
};

PyMODINIT_FUNC PyInit__core(void)
{
    PyObject *module = PyModule_Create(&definition);

    if (module && add_type(module, &DirtyBitmap_Spec, &DirtyBitmap_Type) == 0
        && add_type(module, &Region_Spec, &Region_Type) == 0
        && add_type(module, &Window_Spec, &Window_Type) == 0
        && add_type(module, &MemoryMap_Spec, &MemoryMap_Type) == 0
        && PyModule_AddFunctions(module, host_functions) == 0
        && PyModule_AddFunctions(module, integer_functions) == 0 && add_constants(module) == 0)
        return module;
    Py_XDECREF(module);
    return NULL;
}
