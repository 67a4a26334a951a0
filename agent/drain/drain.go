// Package drain takes a node out of service: it cordons it and evicts its pods,
// as "kubectl drain" does and by the same code. It is linked into a program of
// its own, which leave runs: the typed clientset it needs is larger than all
// the rest of this project. It must not touch the host, and imports nothing
// else of ours.
package drain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/kubectl/pkg/drain"
)

// Options say which node to drain, and how.
type Options struct {
	Kubeconfig string // path; files that it names are relative to it
	Node       string
	Timeout    time.Duration // for the whole
	// Force also deletes pods that no controller will make again elsewhere.
	Force bool
	// NoWait does not wait for a pod's end once it is evicted: for a node
	// whose kubelet does not run, where no pod ever ends.
	NoWait bool
	Out    io.Writer // a line for each thing done, or waited for
}

// requestTimeout bounds one request; there are no watches among them.
const requestTimeout = 20 * time.Second

// retryDelay is how long an eviction that a disruption budget refused waits
// before it is tried again, as with kubectl.
var retryDelay = 5 * time.Second

// Run cordons the node and evicts its pods. A node that does not exist is
// drained. The error is a *Failure.
func Run(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return &Failure{BadConfig, fmt.Sprintf("cannot use the kubeconfig %s: %v", o.Kubeconfig, err)}
	}
	config.Timeout = requestTimeout
	config.UserAgent = "tectonic-worker-drain"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return &Failure{BadConfig, fmt.Sprintf("cannot use the kubeconfig %s: %v", o.Kubeconfig, err)}
	}
	d := &drainer{o: o, client: client, out: &lines{w: o.Out}}
	d.helper = &drain.Helper{
		Ctx: ctx, Client: client, Force: o.Force, GracePeriodSeconds: -1, Timeout: o.Timeout,
		IgnoreAllDaemonSets: true, // their pods would be back at once
		DeleteEmptyDirData:  true, // it ends with the pod's place on this node
		ChunkSize:           250, EvictErrorRetryDelay: retryDelay,
		Out: io.Discard, ErrOut: d.out,
		OnPodDeletionOrEvictionStarted:  func(p *corev1.Pod, _ bool) { d.out.say("evicting pod %s/%s", p.Namespace, p.Name) },
		OnPodDeletionOrEvictionFinished: d.finished,
	}
	return d.run(ctx)
}

type drainer struct {
	o      Options
	client kubernetes.Interface
	helper *drain.Helper
	out    *lines
}

func (d *drainer) run(ctx context.Context) error {
	node, err := d.client.CoreV1().Nodes().Get(ctx, d.o.Node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		d.out.say("node %s does not exist: nothing to drain", d.o.Node)
		return nil
	}
	if err != nil {
		return d.failed("read node "+d.o.Node, err)
	}
	cordon := drain.NewCordonHelper(node)
	if cordon.UpdateIfRequired(true) {
		err, patchErr := cordon.PatchOrReplaceWithContext(ctx, d.client, false)
		if err = errors.Join(err, patchErr); err != nil {
			return d.failed("cordon node "+d.o.Node, err)
		}
	}
	d.out.say("cordoned node %s", d.o.Node)

	pods, err := d.pods(ctx)
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		d.out.say("no pods to evict")
		return nil
	}
	if d.o.NoWait {
		return d.evictOnly(ctx, pods)
	}
	if err := d.helper.DeleteOrEvictPods(pods); err != nil {
		return d.failed("evict the pods of node "+d.o.Node, err)
	}
	d.out.say("evicted %s", count(len(pods)))
	return nil
}

// pods lists what is to be evicted. A pod of a DaemonSet that this credential
// may not look at is taken for one of it: a node's own may not, and the pod
// would come back to any node it fits.
func (d *drainer) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, errs := d.helper.GetPodsForDeletion(d.o.Node)
	if list == nil {
		return nil, d.failed("list the pods of node "+d.o.Node, errors.Join(errs...))
	}
	if len(errs) == 0 {
		return list.Pods(), nil
	}
	var stay []string
	for _, err := range errs {
		if daemonSetForbidden(err) {
			continue
		}
		stay = append(stay, err.Error())
	}
	if len(stay) > 0 {
		return nil, &Failure{PodsStay, fmt.Sprintf("cannot evict every pod of node %s: %s; --force deletes those that no controller would make again", d.o.Node, strings.Join(stay, "; "))}
	}
	return list.Pods(), nil
}

// daemonSetForbidden recognises the one kind of error that kubectl's filter for
// DaemonSets passes on as text: the API server's sentence (RBAC's or the node
// authorizer's).
func daemonSetForbidden(err error) bool {
	return strings.Contains(err.Error(), `cannot get resource "daemonsets"`)
}

// evictOnly asks for the end of each pod and does not wait for it.
func (d *drainer) evictOnly(ctx context.Context, pods []corev1.Pod) error {
	group, err := drain.CheckEvictionSupport(d.client)
	if err != nil {
		return d.failed("evict the pods of node "+d.o.Node, err)
	}
	for _, p := range pods {
		d.out.say("evicting pod %s/%s", p.Namespace, p.Name)
		for {
			err := d.helper.EvictPod(p, group)
			if err == nil || apierrors.IsNotFound(err) {
				break
			}
			if !apierrors.IsTooManyRequests(err) {
				return d.failed(fmt.Sprintf("evict pod %s/%s", p.Namespace, p.Name), err)
			}
			d.out.say("pod %s/%s may not go yet: %v", p.Namespace, p.Name, err)
			select {
			case <-ctx.Done():
				return d.failed(fmt.Sprintf("evict pod %s/%s", p.Namespace, p.Name), err)
			case <-time.After(retryDelay):
			}
		}
	}
	d.out.say("evicted %s; the kubelet does not run, so that is the end of it only with the Node", count(len(pods)))
	return nil
}

func (d *drainer) finished(p *corev1.Pod, _ bool, err error) {
	if err == nil {
		d.out.say("evicted pod %s/%s", p.Namespace, p.Name)
	}
}

// failed sorts an error by what can be done about it.
func (d *drainer) failed(op string, err error) error {
	f := &Failure{Reason: PodsStay, Message: fmt.Sprintf("cannot %s: %v", op, err)}
	switch {
	case apierrors.IsUnauthorized(err):
		f.Reason = BadConfig
		f.Message += "; the API server does not take the credential in " + d.o.Kubeconfig
	case apierrors.IsForbidden(err) || strings.Contains(err.Error(), "is forbidden:"):
		f.Reason = Forbidden
		f.Message += fmt.Sprintf("; run \"kubectl drain %s --ignore-daemonsets --delete-emptydir-data\" as an administrator of the cluster", d.o.Node)
	case apierrors.ReasonForError(err) == metav1.StatusReasonUnknown && !strings.HasPrefix(op, "evict"):
		f.Reason = Unreachable
	}
	return f
}

// lines writes whole lines, from several goroutines.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, format+"\n", args...)
}

// Write takes the sentences of kubectl's own code.
func (l *lines) Write(p []byte) (int, error) {
	l.say("%s", strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

func count(pods int) string {
	if pods == 1 {
		return "1 pod"
	}
	return fmt.Sprintf("%d pods", pods)
}
