// A receiver: a worker of edge-relay that verifies each event and stores it in a file. See docs/receivers.md.
//
// With WEBHOOK_URL, the relay POSTs events to that address, which has to lead to LISTEN. Without it, this is a pull worker.
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	tolerance       = 300 // seconds
	renewalInterval = 5 * time.Minute
	signedLimit     = 10_000_000 // bytes of a body
	unsignedLimit   = 4096
)

var (
	relay       = strings.TrimRight(os.Getenv("RELAY"), "/")
	linearToken = os.Getenv("LINEAR_TOKEN")
	host, _     = os.Hostname()
	name        = env("NAME", host)
	listen      = env("LISTEN", "127.0.0.1:8080")
	webhookURL  = os.Getenv("WEBHOOK_URL")
	dir         = env("DIR", "events")

	isRelay     = regexp.MustCompile(`^(https://|http://(127\.0\.0\.1|localhost)([:/]|$))`).MatchString
	isID        = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`).MatchString
	isTimestamp = regexp.MustCompile(`^[0-9]{1,12}$`).MatchString
	storing     sync.Mutex
)

// `nonce` is that of a registration under way; the rest is what the last registration returned. The lock is for nonce and key,
// which requests need.
var worker struct {
	sync.Mutex
	nonce string
	key   []byte

	path, token, state string
}

// A message has the fields of everything that the relay sends.
type message struct {
	Type, Nonce, Challenge, Code, Detail, Worker, Token, Secret, State string

	Workspace struct{ Name string }
	Events    []struct {
		ID, Body string
		Headers  map[string]string
	}
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func printable(text string) string {
	var out strings.Builder
	for _, c := range text {
		if unicode.IsPrint(c) {
			out.WriteRune(c)
		} else {
			fmt.Fprintf(&out, `\u{%x}`, c)
		}
	}
	return out.String()
}

func log(format string, values ...any) {
	fmt.Fprintln(os.Stderr, printable(fmt.Sprintf(format, values...)))
}

// parse returns the fields of a JSON object, as far as it can be read.
func parse(body []byte) (fields message) {
	json.Unmarshal(body, &fields)
	return fields
}

// mac returns the HMAC over the parts, as `webhook-signature` and `webhook-receipt` hold it; nothing if there is no key yet.
func mac(parts ...string) string {
	worker.Lock()
	key := worker.key
	worker.Unlock()
	if key == nil {
		return ""
	}
	hash := hmac.New(sha256.New, key)
	io.WriteString(hash, strings.Join(parts, "."))
	return "v1," + base64.StdEncoding.EncodeToString(hash.Sum(nil))
}

// isSigned returns whether one of the signatures was made with our key. If so, the id can be the name of a file.
func isSigned(id, timestamp, signatures, body string) bool {
	expected, isOne := mac(id, timestamp, body), false
	for _, given := range strings.Split(signatures, " ") {
		isOne = hmac.Equal([]byte(given), []byte(expected)) || isOne
	}
	return isOne && expected != "" && isID(id) && isTimestamp(timestamp)
}

// store stores an event durably, unless it is stored already.
func store(id, body string) error {
	storing.Lock()
	defer storing.Unlock()
	path, part := filepath.Join(dir, id+".json"), filepath.Join(dir, id+".part")
	_, err := os.Stat(path)
	isNew := errors.Is(err, os.ErrNotExist)
	if isNew {
		if err = write(part, body); err == nil {
			err = os.Rename(part, path)
		}
	}
	if err != nil {
		return err
	}
	directory, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer directory.Close()
	if err = directory.Sync(); err == nil && isNew {
		fmt.Println(id, printable(parse([]byte(body)).Type))
	}
	return err
}

func write(path, body string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err = file.WriteString(body); err != nil {
		return err
	}
	return file.Sync()
}

// receive answers a request, whose body is read: the status, and the body of the answer to a challenge.
func receive(request *http.Request, content []byte, answer http.Header) (int, any) {
	header, body := request.Header.Get, string(content)
	id, timestamp, signatures := header("webhook-id"), header("webhook-timestamp"), header("webhook-signature")
	if signatures == "" {
		worker.Lock()
		defer worker.Unlock()
		fields := parse(content)
		if fields.Type != "edge.challenge" || worker.nonce == "" || fields.Nonce != worker.nonce {
			return http.StatusUnauthorized, nil
		}
		answer.Set("content-type", "application/json")
		return http.StatusOK, map[string]string{"challenge": fields.Challenge}
	}
	if !isSigned(id, timestamp, signatures, body) {
		return http.StatusUnauthorized, nil
	}
	answer.Set("webhook-receipt", mac("receipt", id, timestamp))
	signedAt, _ := strconv.ParseInt(timestamp, 10, 64)
	if age := time.Now().Unix() - signedAt; age > tolerance || age < -tolerance {
		return http.StatusUnauthorized, nil
	}
	if parse(content).Type != "edge.ping" {
		if err := store(id, body); err != nil {
			log("cannot store %s: %v", id, err)
			// Without `Retry-After`: the relay then keeps the event until this worker can store it.
			return http.StatusServiceUnavailable, nil
		}
	}
	return http.StatusNoContent, nil
}

func handle(answer http.ResponseWriter, request *http.Request) {
	limit := int64(unsignedLimit)
	if request.Header.Get("webhook-signature") != "" {
		limit = signedLimit
	}
	content, err := io.ReadAll(http.MaxBytesReader(answer, request.Body, limit))
	if err != nil {
		answer.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	status, body := receive(request, content, answer.Header())
	answer.WriteHeader(status)
	if body != nil {
		json.NewEncoder(answer).Encode(body)
	}
}

// A callError is a failed call to the relay. If isRefused, it would fail again; otherwise it may succeed after `wait`.
type callError struct {
	text, code string
	status     int
	wait       time.Duration
}

func (e callError) Error() string { return e.text }

func (e callError) isRefused() bool {
	return e.status >= 400 && e.status < 500 && e.status != 429 && e.code != "worker_changed"
}

// The client follows no redirects, since a call carries a token.
var client = http.Client{
	Timeout:       30 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// call calls the relay.
func call(method, path string, body map[string]any) (fields message, err error) {
	content, _ := json.Marshal(body)
	request, err := http.NewRequest(method, relay+path, bytes.NewReader(content))
	if err != nil {
		return fields, err
	}
	request.Header.Set("content-type", "application/json")
	request.Header.Set("authorization", "Bearer "+worker.token)
	answer, err := client.Do(request)
	if err == nil {
		defer answer.Body.Close()
		content, err = io.ReadAll(answer.Body)
	}
	if err != nil {
		return fields, fmt.Errorf("the relay cannot be reached: %w", err)
	}
	if fields = parse(content); answer.StatusCode/100 == 2 && fields.State != "" {
		return fields, nil
	}
	wait, _ := strconv.ParseUint(answer.Header.Get("retry-after"), 10, 13)
	text := fmt.Sprintf("the relay answered %d %s: %s", answer.StatusCode, fields.Code, fields.Detail)
	return fields, callError{text, fields.Code, answer.StatusCode, time.Duration(wait) * time.Second}
}

func setSecrets(nonce string, key []byte) {
	worker.Lock()
	defer worker.Unlock()
	worker.nonce, worker.key = nonce, key
}

func register() error {
	random := make([]byte, 24)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	nonce, key := base64.RawURLEncoding.EncodeToString(random), worker.key
	request := map[string]any{"linearToken": linearToken, "name": name, "nonce": nonce, "pulls": webhookURL == ""}
	if webhookURL != "" {
		request["webhookUrl"], request["receipts"] = webhookURL, true
	}
	setSecrets(nonce, key)
	answer, err := call("POST", "/edge/register", request)
	if err == nil {
		key, err = base64.StdEncoding.DecodeString(strings.TrimPrefix(answer.Secret, "whsec_"))
	}
	setSecrets("", key)
	if err == nil {
		worker.path, worker.token, worker.state = answer.Worker, answer.Token, answer.State
		log("registered as %s in %s: %s", name, answer.Workspace.Name, worker.state)
	}
	return err
}

func renew() error {
	shown := map[string]any{}
	// The token shows which teams its user sees. An OAuth token may have expired, and then the relay would remove the worker.
	if strings.HasPrefix(linearToken, "lin_api_") {
		shown["linearToken"] = linearToken
	}
	answer, err := call("PUT", worker.path, shown)
	if err == nil {
		worker.state = answer.State
	}
	return err
}

// pull empties the mailbox, the oldest event first. It returns whether it held any.
func pull() (bool, error) {
	for ack := []string{}; ; {
		answer, err := call("POST", worker.path+"/mailbox", map[string]any{"ack": ack, "limit": 100})
		if err != nil {
			return false, err
		}
		worker.state = answer.State
		if len(answer.Events) == 0 {
			return len(ack) > 0, nil
		}
		ack = ack[:0]
		for _, event := range answer.Events {
			id, headers := event.Headers["webhook-id"], event.Headers
			if !isSigned(id, headers["webhook-timestamp"], headers["webhook-signature"], event.Body) {
				return false, errors.New("the signature of the oldest event in the mailbox does not match")
			}
			if err := store(id, event.Body); err != nil {
				return false, err
			}
			ack = append(ack, event.ID)
		}
	}
}

// step registers, or renews if that is due, and empties the mailbox while the worker is not live.
func step(renewAt *time.Time, idle *time.Duration) error {
	if worker.token == "" || time.Now().After(*renewAt) {
		next := renew
		if worker.token == "" {
			next = register
		}
		if err := next(); err != nil {
			return err
		}
		*renewAt = time.Now().Add(renewalInterval)
	}
	if worker.state == "live" {
		return nil
	}
	found, err := pull()
	if *idle *= 2; found {
		*idle = 2 * time.Second
	} else if *idle > 8*time.Second {
		*idle = 8 * time.Second
	}
	return err
}

// stayRegistered returns when the relay refuses the worker.
func stayRegistered() {
	failures, idle, renewAt := 0, 2*time.Second, time.Time{}
	for {
		wait := renewalInterval
		if err := step(&renewAt, &idle); err != nil {
			log("%v", err)
			var failed callError
			errors.As(err, &failed)
			if wait = time.Second << failures; wait < failed.wait {
				wait = failed.wait
			}
			if failures < 6 {
				failures++
			}
			if failed.isRefused() && (worker.token == "" || failed.code == "worker_token_replaced") {
				return
			}
			if failed.status == http.StatusUnauthorized || failed.code == "membership_check_due" {
				worker.token = ""
			}
		} else if failures = 0; worker.state == "pull" {
			wait = idle
		}
		time.Sleep(wait)
	}
}

func must(err error) {
	if err != nil {
		log("%v", err)
		os.Exit(1)
	}
}

func main() {
	if linearToken == "" || !isRelay(relay) {
		must(errors.New("set LINEAR_TOKEN, and RELAY to an address that begins with https:// or is on this machine"))
	}
	must(os.MkdirAll(dir, 0o700))
	if webhookURL != "" {
		listener, err := net.Listen("tcp", listen)
		must(err)
		log("listening on http://%s", listener.Addr())
		server := http.Server{Handler: http.HandlerFunc(handle), ReadHeaderTimeout: 10 * time.Second,
			ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}
		go server.Serve(listener)
	}
	stayRegistered()
	os.Exit(1)
}
