/* virtio_devices._core: access to rings in guest memory, in C because a benchmark says so
 * (benchmarks/virtio.py: a chain costs 35 ns, not microseconds) and for the order of accesses.
 */
#include "core.h"

PyTypeObject *Chain_Type, *Reader_Type, *Writer_Type, *Ring_Type;
PyTypeObject *Transfers_Type, *Arrivals_Type, *Departures_Type;
PyObject *name_closed, *name_read, *name_slot_memory, *name_write;

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromSpec(spec);
    return *type ? PyModule_AddType(module, *type) : -1;
}

static int make_names(void)
{
    name_closed = PyUnicode_InternFromString("closed");
    name_read = PyUnicode_InternFromString("read");
    name_slot_memory = PyUnicode_InternFromString("slot_memory");
    name_write = PyUnicode_InternFromString("write");
    return name_closed && name_read && name_slot_memory && name_write ? 0 : -1;
}

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "virtio_devices._core",
    .m_doc = "Rings in guest memory, the device's side.",
    .m_size = -1, /* the types above are the process's: one interpreter */
};

PyMODINIT_FUNC PyInit__core(void)
{
    PyObject *module = PyModule_Create(&definition);

    if (module && make_names() == 0 && add_type(module, &Chain_Spec, &Chain_Type) == 0
        && add_type(module, &Reader_Spec, &Reader_Type) == 0
        && add_type(module, &Writer_Spec, &Writer_Type) == 0
        && add_type(module, &Ring_Spec, &Ring_Type) == 0
        && add_type(module, &Transfers_Spec, &Transfers_Type) == 0
        && add_type(module, &Arrivals_Spec, &Arrivals_Type) == 0
        && add_type(module, &Departures_Spec, &Departures_Type) == 0)
        return module;
    Py_XDECREF(module);
    return NULL;
}
