/* Python's integers and arguments as C sees them. */
#include "core.h"

static int from_long(PyObject *number, uint64_t *value)
{
    *value = PyLong_AsUnsignedLongLong(number);
    if (*value != UINT64_MAX || !PyErr_Occurred())
        return 1;
    if (!PyErr_ExceptionMatches(PyExc_OverflowError))
        return -1;
    PyErr_Clear(); /* negative, or 2^64 and more */
    return 0;
}

int to_u64(PyObject *object, uint64_t *value)
{
    PyObject *number;
    int result;

    if (PyLong_Check(object))
        return from_long(object, value);
    number = PyNumber_Index(object);
    if (number == NULL)
        return -1;
    result = from_long(number, value);
    Py_DECREF(number);
    return result;
}

int to_size(PyObject *object, uint64_t *size)
{
    int result = to_u64(object, size);
    PyObject *number, *zero;
    int negative = -1;

    if (result)
        return result;
    *size = UINT64_MAX; /* no map holds that much, so it stands for anything beyond */
    number = PyNumber_Index(object);
    zero = number ? PyLong_FromLong(0) : NULL;
    if (zero)
        negative = PyObject_RichCompareBool(number, zero, Py_LT);
    if (negative > 0)
        PyErr_Format(PyExc_ValueError, "a size cannot be negative, as %R is", number);
    Py_XDECREF(number);
    Py_XDECREF(zero);
    return negative ? -1 : 1;
}

static int find_name(const Signature *signature, PyObject *keyword)
{
    for (int i = 0; i < signature->most; i++)
        if (PyUnicode_CompareWithASCIIString(keyword, signature->names[i]) == 0)
            return i;
    return -1;
}

static int take_keyword(const Signature *signature, PyObject *keyword, PyObject *value,
                        PyObject **values)
{
    int index = find_name(signature, keyword);

    if (index >= 0 && values[index] == NULL) {
        values[index] = value;
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s() got %s argument %R", signature->function,
                 index < 0 ? "an unexpected" : "twice the", keyword);
    return -1;
}

int take_named_arguments(const Signature *signature, PyObject *const *args, Py_ssize_t positional,
                         PyObject *keywords, PyObject **values)
{
    Py_ssize_t named = keywords ? PyTuple_Size(keywords) : 0;

    if (positional > signature->most) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d arguments (%zd given)",
                     signature->function, signature->most, positional);
        return -1;
    }
    for (int i = 0; i < signature->most; i++)
        values[i] = i < positional ? args[i] : NULL;
    for (Py_ssize_t i = 0; i < named; i++)
        if (take_keyword(signature, PyTuple_GetItem(keywords, i), args[positional + i], values) < 0)
            return -1;
    for (int i = 0; i < signature->required; i++)
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() misses its argument '%s'", signature->function,
                         signature->names[i]);
            return -1;
        }
    return 0;
}
