/* What a memoryview of guest memory looks at.
 *
 * A window borrows its region from the first buffer taken to the last one given back, however
 * the memoryview was sliced, cast or passed on in between; that is what makes closing safe.
 */
#include "core.h"

static void begin(Window *self)
{
    Window **head = &self->region->bitmap->live;

    self->next = *head;
    self->link = head;
    if (*head)
        (*head)->link = &self->next;
    *head = self;
}

static void end(Window *self)
{
    *self->link = self->next;
    if (self->next)
        self->next->link = self->link;
    self->link = NULL;
    bitmap_mark(self->region->bitmap, self->offset, (uint64_t)self->size);
}

static int is_tracked(const Window *self)
{
    return self->mode == TRACKED && self->size && self->region->bitmap;
}

static int get_buffer(Window *self, Py_buffer *view, int flags)
{
    Region *region = self->region;

    if (region->host == NULL) {
        view->obj = NULL;
        raise_unreachable(region);
        return -1;
    }
    if (PyBuffer_FillInfo(view, (PyObject *)self, region->host + self->offset, self->size,
                          self->mode == READ_ONLY, flags) < 0)
        return -1;
    region->borrows++;
    if (self->exports++ == 0 && is_tracked(self))
        begin(self);
    return 0;
}

static void release_buffer(Window *self, Py_buffer *Py_UNUSED(view))
{
    self->region->borrows--;
    if (--self->exports == 0 && is_tracked(self))
        end(self);
}

PyObject *window_view(Region *region, uint64_t offset, uint64_t size, enum window_mode mode)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(Window_Type, Py_tp_alloc);
    Window *window = (Window *)allocate(Window_Type, 0);
    PyObject *view;

    if (window == NULL)
        return NULL;
    window->region = (Region *)Py_NewRef((PyObject *)region);
    window->offset = offset;
    window->size = (Py_ssize_t)size; /* inside a mapping, so it fits */
    window->mode = mode;
    view = PyMemoryView_FromObject((PyObject *)window);
    Py_DECREF((PyObject *)window);
    return view;
}

static int window_traverse(Window *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT((PyObject *)self->region);
    return 0;
}

static void window_dealloc(Window *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);

    PyObject_GC_UnTrack(self);
    Py_XDECREF((PyObject *)self->region);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF((PyObject *)type);
}

static PyType_Slot slots[] = {
    {Py_tp_doc, (void *)"What a memoryview of guest memory looks at."},
    {Py_tp_traverse, window_traverse},
    {Py_tp_dealloc, window_dealloc},
    {Py_bf_getbuffer, get_buffer},
    {Py_bf_releasebuffer, release_buffer},
    {0, NULL},
};

PyType_Spec Window_Spec = {
    .name = "vm_memory._core.Window",
    .basicsize = sizeof(Window),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};
